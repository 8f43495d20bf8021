"""The same sample must get the same answer: twice in a row, and in any company (§3.3). Needs no statistics in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from normfold.errors import InputError
from normfold.statistics.collect import Array, Batch
from normfold.statistics.probes.instrument import instrument
from normfold.statistics.probes.passes import Pass, Runtime
from normfold.statistics.schema import ProbeReport, Status
from normfold.statistics.subject import Subject

# More samples say nothing new; fewer cost less.
_SAMPLES = 8
# Rounding may move an answer by so many times what one unit in the last place of every weight moves it.
_FLOOR_FACTOR = 20.0
_JITTER_BYTES = 256 << 20


def stability(subject: Subject, batch: Batch, runtime: Runtime, *, fixed: bool) -> tuple[ProbeReport, ProbeReport]:
    """Determinism and batch invariance of the model as it is written.

    Args:
        subject: the model.
        batch: the first of the data.
        runtime: to run in.
        fixed: the model takes batches of this size only.
    """
    running = runtime.open(instrument(subject, only=()).candidate)
    try:
        feeds = _part(batch.feeds, slice(0, batch.samples if fixed else min(batch.samples, _SAMPLES)))
        first, second = running.run([feeds, feeds]).outputs
        determinism = _determinism(first, second)
        if determinism.status is Status.FAIL:
            reason = "the model is not deterministic"
            return determinism, ProbeReport(name="batch-invariance", status=Status.SKIPPED, reason=reason)
        return determinism, _invariance(running, feeds, first, fixed=fixed)
    finally:
        running.close()


def _determinism(first: Mapping[str, Any], second: Mapping[str, Any]) -> ProbeReport:
    for name, value in first.items():
        other = second[name]
        if not isinstance(value, np.ndarray):
            continue
        if value.shape != other.shape:
            reason = f"the shape of {name!r} changes from run to run"
            return ProbeReport(name="determinism", status=Status.FAIL, reason=reason, output=name)
        if value.dtype.kind == "f" and not np.array_equal(value, other, equal_nan=True):
            reason = f"{name!r} differs between two runs of the same input"
            return ProbeReport(
                name="determinism", status=Status.FAIL, reason=reason, output=name,
                max_abs=_distance(value, other), noise_floor=0.0,
            )  # fmt: skip
    return ProbeReport(name="determinism", status=Status.PASS, max_abs=0.0, noise_floor=0.0)


def _invariance(running: Pass, feeds: Mapping[str, Array], base: Mapping[str, Any], *, fixed: bool) -> ProbeReport:
    samples = len(next(iter(feeds.values())))
    if samples < 2:
        return _skipped("there is one sample, or the model takes one at a time")
    compared = [n for n, v in base.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f" and len(v.shape) > 0]
    compared = [name for name in compared if len(base[name]) == samples]
    if not compared:
        return _skipped("no output has an axis for samples")
    try:
        if fixed:  # other companions, by turning the batch around one sample
            order = [0, *([1] * (samples - 1))]
            moved = running.run([{name: value[order] for name, value in feeds.items()}]).outputs
            pairs = [(0, moved[0], 0)]
        else:
            alone = running.run([_part(feeds, slice(i, i + 1)) for i in range(samples)]).outputs
            pairs = [(i, outputs, 0) for i, outputs in enumerate(alone)]
        floor = _floor(running, feeds, base, compared)
    except InputError as error:
        return _skipped(f"the model does not run on other batches: {error.message}")
    worst = ProbeReport(name="batch-invariance", status=Status.PASS, output=compared[0], max_abs=0.0)
    for name in compared:
        if any(np.shape(outputs[name])[1:] != base[name].shape[1:] for _, outputs, _ in pairs):
            return _skipped(f"the shape of {name!r} depends on the batch")
        distance = max(_distance(base[name][i], outputs[name][j]) for i, outputs, j in pairs)
        if distance > floor[name] or worst.noise_floor is None:
            fails = distance > floor[name]
            worst = ProbeReport(
                name="batch-invariance", status=Status.FAIL if fails else Status.PASS, output=name, max_abs=distance,
                reason=f"{name!r} of a sample depends on what else is in the batch" if fails else "",
                noise_floor=floor[name],
            )  # fmt: skip
            if fails:
                return worst
    return worst


def _floor(
    running: Pass, feeds: Mapping[str, Array], base: Mapping[str, Any], names: Sequence[str]
) -> dict[str, float]:
    """How far rounding may move each output: from a run with every weight moved by one unit in the last place."""
    result = running.run([feeds], jitter={"seed": 1, "budget": _JITTER_BYTES})
    moved = result.outputs[0]
    floors = {}
    for name in names:
        value = base[name]
        finite = np.abs(value[np.isfinite(value)])
        unit = float(np.finfo(value.dtype).eps) * float(finite.max(initial=0.0))
        floors[name] = _FLOOR_FACTOR * max(_distance(value, moved[name]), unit)
    return floors


def _distance(a: Array, b: Array) -> float:
    """Largest difference; infinite where one is finite and the other is not."""
    if a.shape != b.shape:
        return float("inf")
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = np.isfinite(x) & np.isfinite(y)
    if not np.array_equal(np.where(both, 0.0, x), np.where(both, 0.0, y), equal_nan=True):
        return float("inf")
    return float(np.abs(x[both] - y[both]).max(initial=0.0))


def _part(feeds: Mapping[str, Array], which: slice) -> dict[str, Array]:
    return {name: value[which] for name, value in feeds.items()}


def _skipped(reason: str) -> ProbeReport:
    return ProbeReport(name="batch-invariance", status=Status.SKIPPED, reason=reason)
