"""How far rounding alone moves a model: δ per output, from runs with every weight moved by one ulp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .copies import Copy
from .jitter import jitter
from .jobs import Job, JobResult
from .metrics import difference
from .model_inputs import Trial
from .runner import Worker
from .verdicts import Array, VerifyOptions

_BUDGET = 2 << 30  # bytes of weights to move at once
Outputs = Sequence[Mapping[str, Any]]


class Noise:
    """δ per output and trial, from as many jittered runs as were asked for.

    With `inputs_too` the inputs move together with the weights. A norm needs that: it is as sensitive to its input as the
    input's mean is large, and no weight in front of the first norm, or none of a float64 one, shows it.
    """

    def __init__(
        self,
        copy: Copy,
        trials: Sequence[Trial],
        level: str,
        base: Outputs,
        worker: Worker,
        options: VerifyOptions,
        *,
        inputs_too: bool = False,
    ) -> None:
        self.copy, self.trials, self.level, self.base = copy, trials, level, base
        self.worker, self.options = worker, options
        self.inputs_too = inputs_too
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
        rng = np.random.default_rng(seed)
        moved = [{name: _moved(value, rng) for name, value in one.items()} for one in feeds]
        if not self.on_inputs:
            facts = {"seed": seed, "budget": self._budget()}
            fed = moved if self.inputs_too else feeds
            result = self.worker.run(Job(self.copy.path, fed, None, self.copy.data_dir, self.level, facts))
            counts = result.facts.get("jitter", {})
            if result.ok and counts.get("moved"):
                self.share = counts["moved"] / counts["total"]
                return result
            self.on_inputs = True
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
