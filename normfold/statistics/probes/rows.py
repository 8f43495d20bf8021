"""From the rows that a probe returns for a batch to the moments of each sample."""

from __future__ import annotations

import numpy as np

from normfold.statistics.exact_sums import Float64
from normfold.statistics.probes.passes import Outputs
from normfold.statistics.probes.site_writer import Probe

# Moments a and q of each sample, and how many values they are of, `[N, C]` each.
PerSample = tuple[Float64, Float64, Float64]


class NoSamples(Exception):
    """The first axis of a tensor is not made of the samples."""


def per_sample(probe: Probe, values: Outputs, samples: int) -> PerSample | None:
    """Moments of each sample; None where the body that a probe stands in was not run.

    A site in a body may have run several times. Where every run held whole samples, the runs of a sample are averaged, each
    with the weight of its values; where the runs went over the samples, those of a sample follow each other.

    Where a network folds another axis into the first one (frames, regions), the rows of a sample stand together and are
    averaged: the sample stays the unit of independence.

    Raises:
        NoSamples: the rows cannot be dealt out to the samples.
    """
    a = np.asarray(values[probe.mean], np.float64)
    q = np.asarray(values[probe.square], np.float64) if probe.square else a**2
    shapes = np.atleast_2d(np.asarray(values[probe.shape], np.int64))
    if not len(shapes):
        return None
    rows, area = shapes[:, 0], np.prod(shapes[:, 2:], axis=1, dtype=np.float64)
    whole = rows.all() and area.all()
    if whole and not (rows % samples).any():
        return _over_runs(a, q, rows, area, samples)
    alike = (rows == rows[0]).all() and (area == area[0]).all()
    if whole and alike and not rows.sum() % samples:
        return _of_blocks(a, q, float(area[0]), samples)
    runs = "" if len(shapes) == 1 else f"{len(shapes)} runs of "
    raise NoSamples(f"its input has {runs}{_range(rows)} rows of {_range(area)} values for {samples} samples")


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _of_blocks(a: Float64, q: Float64, area: float, samples: int) -> PerSample:
    """The rows of a sample stand together."""
    rows = len(a) // samples
    if rows > 1:
        a, q = (part.reshape(samples, rows, -1).mean(axis=1) for part in (a, q))
    return a, q, np.full(a.shape, area * rows)


def _over_runs(a: Float64, q: Float64, rows: np.ndarray, area: Float64, samples: int) -> PerSample:
    """Every run holds rows of every sample."""
    ends = np.cumsum(rows)[:-1]
    runs = [
        _of_blocks(a_run, q_run, float(each), samples)
        for a_run, q_run, each in zip(np.split(a, ends), np.split(q, ends), area, strict=True)
    ]
    if len(runs) == 1:
        return runs[0]
    means, squares, weights = (np.stack(parts) for parts in zip(*runs, strict=True))
    total = weights.sum(axis=0)
    return (means * weights).sum(axis=0) / total, (squares * weights).sum(axis=0) / total, total
