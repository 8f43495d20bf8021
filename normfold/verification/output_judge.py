"""From the outputs of both models to verdicts.

    PASS     |Δ| ≤ 4δ + 4·u·max|y|
    SUSPECT  above that, up to 8δ
    FAIL     above both

δ is measured as far as needed: more jittered runs only widen the PASS line, so they stop as soon as everything passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from .copies import Decision
from .kernels import Execution
from .metrics import Difference, difference
from .model_inputs import Trial
from .noise import Noise, Outputs
from .verdicts import OutputVerdict, Settings, Status, VerifyOptions, number, worst

_RUNS, _MORE_RUNS = 4, 16  # jittered runs; four times as many to resolve a SUSPECT
_PASS, _FAIL, _ROUND = 4.0, 8.0, 4.0  # provisional: 4δ, 8δ, 4u
_CHAOS = 0.1  # δ above this share of the output's rms: the model is chaotic on this input
UNOPTIMISED = "ORT_DISABLE_ALL"


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """What running both models established; `reason` says why there are no outputs.

    `emulated` counts emulated operators, `execution` is the weakest way in which one was computed.
    """

    status: Status
    outputs: tuple[OutputVerdict, ...] = ()
    coverage: float = 0.0
    reason: str = ""
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    emulated: Mapping[str, int] = field(default_factory=dict)
    execution: Execution = Execution.NATIVE


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outputs of both models (`old`, `new`, one mapping per trial) and the noise floor of the original."""

    options: VerifyOptions
    trials: Sequence[Trial]
    old: Outputs
    new: Outputs
    noise: Noise

    def result(
        self, model: onnx.ModelProto, chosen: Sequence[tuple[Decision, Decision]], settings: Settings
    ) -> EndToEnd:
        """Judge every output of `model`, and the scores behind the decisions in `chosen`."""
        names = [info.name for info in model.graph.output]
        names += [name for name in dict.fromkeys(pair[0].scores for pair in chosen) if name not in names]
        pairs = list(zip(self.old, self.new, strict=True))
        table = {name: [difference(a[name], b[name]) for a, b in pairs] for name in names}
        verdicts = self._judged(table, chosen)
        for runs in (1, _RUNS, _MORE_RUNS):
            if worst(v.status for v in verdicts).passed or (runs == _MORE_RUNS and not self._suspect(verdicts)):
                break
            self.noise.more(runs)
            verdicts = self._judged(table, chosen)
        covered = [any(found.informative for found in table[info.name]) for info in model.graph.output]
        return self._summary(verdicts, table, covered, settings)

    @staticmethod
    def _suspect(verdicts: Sequence[OutputVerdict]) -> bool:
        return worst(verdict.status for verdict in verdicts) is Status.SUSPECT

    def _judged(
        self, table: Mapping[str, Sequence[Difference]], chosen: Sequence[tuple[Decision, Decision]]
    ) -> list[OutputVerdict]:
        by_output = {pair[0].output: pair[0] for pair in chosen}
        verdicts = []
        for name, found in table.items():
            each = [self._one(name, t, one, by_output.get(name), table) for t, one in enumerate(found)]
            gravest = worst(verdict.status for verdict in each)
            pick = max(
                (verdict for verdict in each if verdict.status is gravest),
                key=lambda verdict: verdict.ratio if verdict.ratio is not None else -1.0,
            )
            if gravest.passed and not any(one.informative for one in found):
                pick = replace(pick, status=Status.INCONCLUSIVE, reason="no trial gave finite, varying values")
            verdicts.append(pick)
        return verdicts

    def _one(
        self,
        name: str,
        trial: int,
        found: Difference,
        decision: Decision | None,
        table: Mapping[str, Sequence[Difference]],
    ) -> OutputVerdict:
        verdict = OutputVerdict(
            name, Status.PASS, location=found.location, seed=self.trials[trial].seed, shapes=self.trials[trial].shapes
        )
        if found.exact:
            return self._exact(verdict, trial, found, decision, table)
        if found.reason:
            return replace(verdict, status=Status.FAIL, reason=found.reason)
        limit, delta = self._line(name, trial, found)
        verdict = replace(
            verdict,
            max_abs=number(found.max_abs),
            max_rel=number(found.max_rel),
            rms=number(found.rms),
            cosine=number(found.cosine),
            max_ulp=number(found.max_ulp),
            noise_floor=number(delta),
            bound=number(limit),
            ratio=number(found.max_abs / limit) if limit else (0.0 if not found.max_abs else None),
        )
        if found.repaired:
            return replace(verdict, status=Status.SUSPECT, reason="the original is not finite where the candidate is")
        if found.max_abs <= limit:
            return verdict
        if self._fixed(name) is None and found.max_abs <= _FAIL * delta:
            return replace(verdict, status=Status.SUSPECT, reason="larger than rounding usually makes it")
        return replace(verdict, status=Status.FAIL, reason="rounding does not explain the difference")

    def _line(self, name: str, trial: int, found: Difference) -> tuple[float, float]:
        delta = self.noise.delta.get((name, trial), 0.0)
        fixed = self._fixed(name)
        if fixed is not None:
            return fixed[1] + fixed[0] * found.scale, delta
        return _PASS * delta + _ROUND * found.unit * found.scale, delta

    def _fixed(self, name: str) -> tuple[float, float] | None:
        """Return (rtol, atol) if the user gave a tolerance for this output."""
        rtol = self.options.rtol.get(name, self.options.rtol.get(""))
        atol = self.options.atol.get(name, self.options.atol.get(""))
        return None if rtol is None and atol is None else (rtol or 0.0, atol or 0.0)

    def _exact(
        self,
        verdict: OutputVerdict,
        trial: int,
        found: Difference,
        decision: Decision | None,
        table: Mapping[str, Sequence[Difference]],
    ) -> OutputVerdict:
        if not found.reason and not found.changed:
            return verdict
        if decision is not None and not found.reason:
            margin, allowed = self._margin(verdict.name, trial, decision, table)
            reason = f"{found.changed} indices flipped, score margin {margin:.3g}, tolerance {allowed:.3g}"
            status = Status.PASS if margin <= allowed else Status.FAIL
            return replace(verdict, status=status, reason=reason, max_abs=number(margin), bound=number(allowed))
        reason = found.reason or f"{found.changed} exact values differ"
        if self.noise.flips.get((verdict.name, trial), 0) > 0:
            reason += "; moving the weights by one ulp changes this output as well"
            return replace(verdict, status=Status.INCONCLUSIVE, reason=reason)
        return replace(verdict, status=Status.FAIL, reason=reason)

    def _margin(
        self, name: str, trial: int, decision: Decision, table: Mapping[str, Sequence[Difference]]
    ) -> tuple[float, float]:
        """Return the largest score gap among flipped indices and the gap that rounding can close."""
        scores = np.asarray(self.old[trial][decision.scores], np.float64)
        axis = decision.axis % scores.ndim
        pairs = [np.asarray(side[trial][name], np.int64) for side in (self.old, self.new)]
        if decision.reduced:
            pairs = [np.expand_dims(indices, axis) for indices in pairs]
        left, right = (np.take_along_axis(scores, indices, axis) for indices in pairs)
        limit, _ = self._line(decision.scores, trial, table[decision.scores][trial])
        return float(np.abs(left - right).max()), 2 * limit

    def _chaos(self, table: Mapping[str, Sequence[Difference]]) -> list[tuple[str, float]]:
        """Return the outputs whose noise floor exceeds a tenth of their rms, with the largest share."""
        shares = {
            name: max(
                self.noise.delta.get((name, t), 0.0) / one.level if one.level else 0.0 for t, one in enumerate(each)
            )
            for name, each in table.items()
        }
        return [(name, share) for name, share in shares.items() if share > _CHAOS]

    def _summary(
        self,
        verdicts: Sequence[OutputVerdict],
        table: Mapping[str, Sequence[Difference]],
        covered: Sequence[bool],
        settings: Settings,
    ) -> EndToEnd:
        status = worst(verdict.status for verdict in verdicts)
        warnings = [
            f"output {name!r} is chaotic: {share:.0%} of its rms is rounding" for name, share in self._chaos(table)
        ]
        if settings.optimization != UNOPTIMISED:
            warnings.append(f"the original loads only with optimisations; both sides ran at {settings.optimization}")
        if settings.random_inputs:
            warnings.append("inputs were random, not the user's data")
        if self.noise.share < 1:
            warnings.append(f"the noise floor was measured on {self.noise.share:.0%} of the weights and scaled up")
        if self.noise.on_inputs:
            warnings.append("no weight could be moved; the noise floor comes from the inputs")
        if self.noise.failed:
            warnings.append(self.noise.failed)
        first = next((verdict for verdict in verdicts if verdict.status is status), None)
        return EndToEnd(
            status,
            tuple(verdicts),
            sum(covered) / len(covered) if covered else 0.0,
            "" if first is None or status.passed else f"output {first.name!r}: {first.reason}",
            (f"{len(self.trials)} trials end to end, {self.noise.runs} runs with weights moved by one ulp",),
            tuple(warnings),
            settings,
        )
