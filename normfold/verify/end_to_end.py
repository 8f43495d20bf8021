"""L3: both whole models on the same inputs, judged by how much the original itself moves under rounding.

    PASS     |Δ| ≤ 4δ + 4·u·max|y|
    SUSPECT  above that, up to 8δ
    FAIL     above both

δ is the largest change that moving every weight of the original by one ulp causes on the same inputs, over up to four
runs. More runs only widen the PASS line, so they stop as soon as everything passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .copies import Copy, Decision, decisions, is_random, prepare_copy
from .jitter import jitter
from .metrics import Difference, difference
from .model_inputs import InputsError, Trial, attempts
from .repro import keep_trial
from .runner import Job, JobResult, Worker
from .verdicts import Array, OutputVerdict, Settings, Status, VerifyOptions, number, worst

_RUNS, _MORE_RUNS = 4, 16  # jittered runs; four times as many to resolve a SUSPECT
_PASS, _FAIL, _ROUND = 4.0, 8.0, 4.0  # provisional: 4δ, 8δ, 4u
_CHAOS = 0.1  # δ above this share of the output's rms: the model is chaotic on this input
_BUDGET = 2 << 30  # bytes of weights to move at once
_LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC")
Outputs = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """What running both models established; `reason` says why there are no outputs."""

    status: Status
    outputs: tuple[OutputVerdict, ...] = ()
    coverage: float = 0.0
    reason: str = ""
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)


def compare_end_to_end(
    paths: tuple[Path, Path],
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    options: VerifyOptions,
    worker: Worker,
    frozen: frozenset[str] = frozenset(),
) -> EndToEnd:
    """Run the original and the candidate (`paths`, and their protos without external data) and compare.

    Raises:
        WorkerError: the worker crashed, timed out or left no result.
        UsageError: user data or shapes that do not fit the model.
    """
    chosen = _decisions(models)
    copies = [
        prepare_copy(path, model, [pair[side].scores for pair in chosen], worker.folder, f"side{side}")
        for side, (path, model) in enumerate(zip(paths, models, strict=True))
    ]
    try:
        first, trials, level = _original(copies[0], models[0], options, worker)
    except InputsError as error:
        return EndToEnd(Status.INCONCLUSIVE, reason=f"no inputs can be made: {error}; give --shape or --inputs")
    if not first.ok:
        reason = f"the original does not run here ({first.stage}): {first.message}"
        hint = "; if its inputs are to blame, give --shape or --inputs" if first.stage == "run" else ""
        return EndToEnd(Status.INCONCLUSIVE, reason=reason + hint)
    settings = _settings(trials, first, level, options)
    if is_random(models[0]) and not _repeats(copies[0], trials, level, first, worker):
        return EndToEnd(Status.INCONCLUSIVE, reason="the original does not repeat itself (M05)", settings=settings)
    feeds = [{name: value for name, value in trial.feeds.items() if name not in frozen} for trial in trials]
    second = worker.run(Job(copies[1].path, feeds, None, copies[1].data_dir, level))
    if not second.ok:
        reason = f"the original runs, the candidate does not ({second.stage}): {second.message}"
        return EndToEnd(Status.FAIL, reason=reason, settings=settings)
    noise = _Noise(copies[0], trials, level, first.outputs, worker, options)
    renamed = [(pair[0].scores, pair[1].scores) for pair in chosen]
    compared = _Comparison(options, trials, first.outputs, _align(second.outputs, renamed), noise)
    result = compared.result(models[0], chosen, settings)
    if options.keep_repro and not result.status.passed:
        keep_trial(options.keep_repro, *paths, feeds)
    return result


def _decisions(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> list[tuple[Decision, Decision]]:
    old, new = (decisions(model) for model in models)
    return [(old[name], new[name]) for name in old if name in new and old[name].axis == new[name].axis]


def _align(outputs: Outputs, renamed: Sequence[tuple[str, str]]) -> Outputs:
    """Give the candidate's score tensors the names that they have in the original."""
    return [{**values, **{old: values[new] for old, new in renamed}} for values in outputs]


def _original(
    copy: Copy, model: onnx.ModelProto, options: VerifyOptions, worker: Worker
) -> tuple[JobResult, tuple[Trial, ...], str]:
    """Run the original: the smallest inputs it accepts, at the lowest optimisation level it loads at."""
    result, refused, level = JobResult(False), None, _LEVELS[0]
    for trials in attempts(model, options):
        feeds = [trial.feeds for trial in trials]
        result = worker.run(Job(copy.path, feeds, None, copy.data_dir, level))
        if not result.ok and result.stage == "load" and level == _LEVELS[0]:
            level = _LEVELS[1]
            result = worker.run(Job(copy.path, feeds, None, copy.data_dir, level))
        if result.ok or result.stage == "load":
            return result, trials, level
        refused = refused or result
    return refused or result, (), level


def _repeats(copy: Copy, trials: Sequence[Trial], level: str, first: JobResult, worker: Worker) -> bool:
    worker.forget()
    again = worker.run(Job(copy.path, [trial.feeds for trial in trials], None, copy.data_dir, level))
    worker.forget()
    if not again.ok:
        return False
    pairs = zip(first.outputs, again.outputs, strict=True)
    return all(_identical(difference(a[name], b[name])) for a, b in pairs for name in a)


def _identical(found: Difference) -> bool:
    return not (found.reason or found.changed or found.max_abs or found.repaired)


def _settings(trials: Sequence[Trial], first: JobResult, level: str, options: VerifyOptions) -> Settings:
    return Settings(
        seeds=tuple(trial.seed for trial in trials),
        shapes=tuple(dict(trial.shapes) for trial in trials),
        ort_version=str(first.facts.get("ort", "")),
        optimization=level,
        random_inputs=any(name not in options.inputs for trial in trials for name in trial.feeds),
    )


class _Noise:
    """δ per output and trial, from as many jittered runs as were asked for."""

    def __init__(
        self, copy: Copy, trials: Sequence[Trial], level: str, base: Outputs, worker: Worker, options: VerifyOptions
    ) -> None:
        self.copy, self.trials, self.level, self.base = copy, trials, level, base
        self.worker, self.options = worker, options
        self.runs = 0
        self.share = 1.0
        self.on_inputs = False
        self.failed = ""
        self.delta: dict[tuple[str, int], float] = {}
        self.flips: dict[tuple[str, int], int] = {}

    def more(self, runs: int) -> None:
        """Make sure of `runs` runs in total."""
        while self.runs < runs and not self.failed:
            self.runs += 1
            self._run(self.options.seed + self.runs)

    def _run(self, seed: int) -> None:
        result = self._jittered(seed)
        if not result.ok:
            self.failed = f"the noise floor could not be measured: {result.message}"
            return
        if not self.on_inputs and _broke(self.base, result.outputs):
            self.on_inputs = True  # some constant is a setting, not a weight; the inputs never are
            self.delta.clear()
            self.flips.clear()
            self._run(seed)
            return
        for number_, (base, moved) in enumerate(zip(self.base, result.outputs, strict=True)):
            for name, value in base.items():
                found = difference(value, moved[name])
                key = (name, number_)
                self.delta[key] = max(self.delta.get(key, 0.0), found.max_abs / self.share**0.5)
                flips = found.changed or (1 << 30 if found.reason else 0)
                self.flips[key] = max(self.flips.get(key, 0), flips)

    def _jittered(self, seed: int) -> JobResult:
        feeds: list[Mapping[str, Array]] = [trial.feeds for trial in self.trials]
        if not self.on_inputs:
            facts = {"seed": seed, "budget": self._budget()}
            result = self.worker.run(Job(self.copy.path, feeds, None, self.copy.data_dir, self.level, facts))
            counts = result.facts.get("jitter", {})
            if result.ok and counts.get("moved"):
                self.share = counts["moved"] / counts["total"]
                return result
            self.on_inputs = True
        rng = np.random.default_rng(seed)
        moved = [{name: _moved(value, rng) for name, value in one.items()} for one in feeds]
        return self.worker.run(Job(self.copy.path, moved, None, self.copy.data_dir, self.level))

    def _budget(self) -> int:
        limit = self.options.memory_limit_bytes
        return _BUDGET if limit is None else min(_BUDGET, limit // 4)


def _broke(base: Outputs, moved: Outputs) -> bool:
    """Whether a value that was finite no longer is."""
    return any(
        np.asarray(value).dtype.kind == "f" and bool((np.isfinite(value) & ~np.isfinite(after[name])).any())
        for before, after in zip(base, moved, strict=True)
        for name, value in before.items()
        if np.shape(value) == np.shape(after[name])
    )


def _moved(value: Array, rng: np.random.Generator) -> Array:
    result: Array = jitter(value, rng) if value.dtype.kind == "f" else value
    return result


@dataclass(frozen=True, slots=True)
class _Comparison:
    options: VerifyOptions
    trials: Sequence[Trial]
    old: Outputs
    new: Outputs
    noise: _Noise

    def result(
        self, model: onnx.ModelProto, chosen: Sequence[tuple[Decision, Decision]], settings: Settings
    ) -> EndToEnd:
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
        if settings.optimization != _LEVELS[0]:
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
