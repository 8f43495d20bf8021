"""One pass over the data: per-sample moments of every probed site, accumulated in float64 (§4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from normfold.errors import InputError
from normfold.statistics.collect import Array, Batch, Collected, DataSource
from normfold.statistics.exact_sums import Float64
from normfold.statistics.moments import Moments
from normfold.statistics.probes.instrument import BATCH, STORED, Form, Instrumented, Probe, instrument
from normfold.statistics.probes.passes import DEFAULT_LIMITS, Limits, Outputs, Runtime
from normfold.statistics.subject import Subject

Progress = Callable[[int, int | None], None]
# Outputs are kept for the first samples only, so that memory does not grow with the data.
KEPT_SAMPLES, _KEPT_BYTES = 4096, 64 << 20


class Wanted(Protocol):
    """Which batches a pass runs."""

    def __call__(self, batch: Batch) -> bool:
        """Whether this one."""


def collect(
    subject: Subject,
    source: DataSource,
    form: Form = STORED,
    *,
    runtime: Runtime | None = None,
    limits: Limits = DEFAULT_LIMITS,
    only: Collection[str] | None = None,
    cut: bool = False,
    wanted: Wanted | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Run data through a model and measure in front of every BatchNormalization.

    With batch statistics, batches that are shorter than the others are left out, unless there are no others.

    Args:
        subject: the model.
        source: read once, a few batches at a time.
        form: of the normalisations.
        runtime: a child process to use; None to start one with `limits`.
        only: keys of the sites to measure, None for all.
        cut: run only what stands in front of these sites; there are no outputs then.
        wanted: takes the batches of a shard; None for all.
        progress: called with the samples done, and their number where it is known.

    Raises:
        InputError: the data cannot be read, does not fit, or the model does not run on it.
        WorkerError: the child crashed, timed out or ran out of memory.
    """
    if runtime is None:
        with Runtime(limits) as own:
            return collect(subject, source, form, runtime=own, only=only, cut=cut, wanted=wanted, progress=progress)
    made = instrument(subject, form, only=only, cut=cut)
    state = _State(made, source, "batch" if form.batch else "stored")
    batches: Iterable[Batch] = source.batches()
    if wanted is not None:
        batches = (batch for batch in batches if wanted(batch))
    if form.batch:
        batches = _full(batches, source.batch_size)
    outputs = () if cut else tuple(value.name for value in subject.model.graph.outputs)
    running = runtime.open(made.candidate)
    try:
        for batch, values in running.stream(state.hashed(batches), (*outputs, *made.fetch)):
            state.add(batch, values, outputs)
            if progress is not None:
                progress(state.samples, source.samples)
    finally:
        running.close()
    return state.result()


def _full(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Only full batches; if there are none, those that there are."""
    short: list[Batch] = []
    any_full = False
    for batch in batches:
        if batch.samples == size:
            any_full, short = True, []
            yield batch
        elif not any_full:
            short.append(batch)
    yield from short


class _State:
    """What is known so far; O(channels), and the first outputs."""

    def __init__(self, made: Instrumented, source: DataSource, mode: Any) -> None:
        self.mode = mode
        self.probes = list(made.probes)
        self.skipped = dict(made.skipped)
        size, grouped = source.batch_size, source.grouped
        self.moments = {p.site.key: Moments.empty(p.shift, size, grouped=grouped) for p in self.probes}
        self.samples = self.batches = 0
        self.digest = hashlib.sha256()
        self.outputs: dict[str, list[Array]] = {}
        self.kept = self.kept_bytes = 0

    def hashed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; what is fed enters the checksum."""
        for batch in batches:
            for name in sorted(batch.feeds):
                value = np.ascontiguousarray(batch.feeds[name])
                self.digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
                self.digest.update(
                    value.view(np.uint8).data if value.dtype.kind != "O" else str(value.tolist()).encode()
                )
            yield batch

    def add(self, batch: Batch, values: Outputs, outputs: tuple[str, ...]) -> None:
        for probe in list(self.probes):
            try:
                a, q, weights = per_sample(probe, values, batch.samples)
            except _NoSamples as error:
                self._give_up(probe, str(error))
                continue
            self.moments[probe.site.key].add(a, q, weights, batch.groups)
        self._keep({name: values[name] for name in outputs}, batch.samples)
        self.samples += batch.samples
        self.batches += 1

    def _give_up(self, probe: Probe, reason: str) -> None:
        self.probes.remove(probe)
        del self.moments[probe.site.key]
        self.skipped[probe.site.key] = reason

    def _keep(self, values: Mapping[str, Any], samples: int) -> None:
        if self.kept >= KEPT_SAMPLES or self.kept_bytes >= _KEPT_BYTES:
            return
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape[:1] == (samples,):
                self.outputs.setdefault(name, []).append(np.array(value, np.float32))
                self.kept_bytes += value.size * 4
        self.kept += samples

    def result(self) -> Collected:
        if not self.samples:
            raise InputError("data.empty", "the data holds no samples", hint="check the path and --limit")
        outputs = {name: np.concatenate(parts) for name, parts in self.outputs.items() if _same_shape(parts)}
        return Collected(
            self.mode, self.moments, self.samples, self.batches, self.digest.hexdigest(), outputs, self.skipped
        )


def _same_shape(parts: list[Array]) -> bool:
    return len({part.shape[1:] for part in parts}) == 1


class _NoSamples(Exception):
    """The first axis of a tensor is not made of the samples."""


def per_sample(probe: Probe, values: Outputs, samples: int) -> tuple[Float64, Float64, Float64]:
    """Moments of each sample, `[N, C]` twice, and how many values they are of, `[N]`.

    Where a network folds another axis into the first one (frames, regions), the rows of a sample stand together and are
    averaged: the sample stays the unit of independence.
    """
    a = np.asarray(values[probe.mean], np.float64)
    shape = np.asarray(values[probe.shape])
    area = float(np.prod(shape[2:], dtype=np.float64))
    q = np.asarray(values[probe.square], np.float64) / area if probe.square else a**2
    rows, folded = divmod(len(a), samples)
    if folded or not rows or not area:
        raise _NoSamples(f"its input has {len(a)} rows of {area:g} values for {samples} samples")
    if rows > 1:
        a, q = (part.reshape(samples, rows, -1).mean(axis=1) for part in (a, q))
    return a, q, np.full(samples, area * rows)


__all__ = ["BATCH", "KEPT_SAMPLES", "STORED", "Form", "Limits", "Runtime", "collect", "per_sample"]
