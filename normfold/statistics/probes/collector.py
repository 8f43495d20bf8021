"""One pass over the data: per-sample moments of every probed site, accumulated in float64 (§4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from normfold.errors import InputError
from normfold.statistics.collect import NOT_REACHED, Array, Batch, Collected, DataSource
from normfold.statistics.moments import Moments
from normfold.statistics.probes.forms import STORED, Form
from normfold.statistics.probes.instrument import Instrumented, instrument
from normfold.statistics.probes.passes import DEFAULT_LIMITS, Limits, Outputs, Runtime
from normfold.statistics.probes.rows import NoSamples, PerSample, per_sample
from normfold.statistics.probes.site_writer import Probe
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
    """What is known so far; O(channels), and the first outputs.

    The channels of the sites of the main graph, which see every batch, are added as one vector: numpy is called as often for
    fifty layers as for one. A site in a body sees the batches for which the body is run, and is counted on its own.
    """

    def __init__(self, made: Instrumented, source: DataSource, mode: Any) -> None:
        self.mode = mode
        self.probes = made.probes
        self.skipped = dict(made.skipped)
        shifts = [probe.shift for probe in made.probes if not probe.in_body]
        whole = np.concatenate(shifts) if shifts else np.zeros(0)
        self.moments = Moments.empty(whole, source.batch_size, grouped=source.grouped)
        self.in_bodies = {
            probe.site.key: Moments.empty(probe.shift, source.batch_size, grouped=source.grouped)
            for probe in made.probes
            if probe.in_body
        }
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
        parts = []
        for probe in self.probes:
            part = self._part(probe, values, batch.samples)
            if not probe.in_body:
                nothing = np.zeros((batch.samples, probe.shift.size))
                parts.append(part or (nothing, nothing, nothing))
            elif part is not None:
                self.in_bodies[probe.site.key].add(*part, batch.groups)
        if parts:
            a, q, weights = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
            self.moments.add(a, q, weights, batch.groups)
        self._keep({name: values[name] for name in outputs}, batch.samples)
        self.samples += batch.samples
        self.batches += 1

    def _part(self, probe: Probe, values: Outputs, samples: int) -> PerSample | None:
        """Moments of a site, `[N, C]` each; None of one that was not run, or given up."""
        if probe.site.key in self.skipped:
            return None
        try:
            return per_sample(probe, values, samples)
        except NoSamples as error:
            self.skipped[probe.site.key] = str(error)
            return None

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
        by_site = self._by_site()  # which may skip some
        return Collected(self.mode, by_site, self.samples, self.batches, self.digest.hexdigest(), outputs, self.skipped)

    def _by_site(self) -> dict[str, Moments]:
        found, start = {}, 0
        for probe in self.probes:
            key = probe.site.key
            if probe.in_body:
                moments = self.in_bodies[key]
                if not moments.samples:
                    self.skipped.setdefault(key, NOT_REACHED)
            else:
                moments = self.moments.channels(start, start + probe.shift.size)
                start += probe.shift.size
            if key not in self.skipped:
                found[key] = moments
        return found


def _same_shape(parts: list[Array]) -> bool:
    return len({part.shape[1:] for part in parts}) == 1
