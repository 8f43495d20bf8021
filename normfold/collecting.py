"""`stats`: measuring in parts, merging them, and baselines of models that hold no statistics themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from onnx import ModelProto

from normfold._version import __version__
from normfold.destination import check_destination, lock, require_apart
from normfold.errors import EnvironmentProblem, InputError, UsageError
from normfold.model.load import Initializers
from normfold.model.opener import DEFAULT_TRUST
from normfold.model.output_file import create, sync
from normfold.model.source import Source
from normfold.model.staging import Staging, cannot_write
from normfold.model.trust import Trust
from normfold.statistics.data import DataOptions, open_data
from normfold.statistics.data.opening import Given, files_of
from normfold.statistics.folded.baseline import measurable, recorded
from normfold.statistics.folded.finding import find_manifest, shown
from normfold.statistics.measurement import MeasuredLayer, MeasurementReport, layers
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.passes import DEFAULT_LIMITS, Limits
from normfold.statistics.shards import Part, Shard, merged, read_part, require_complete
from normfold.statistics.subject import Subject, open_subject

Progress = Callable[[str, int, int], None]


def collect_part(
    source: str | Path | Source | ModelProto,
    data: Given,
    shard: Shard,
    *,
    options: DataOptions | None = None,
    limits: Limits = DEFAULT_LIMITS,
    initializers: Initializers = Initializers.AUTO,
    progress: Progress | None = None,
) -> Part:
    """Measure on every n-th batch of the data.

    Args:
        source: the model; a folded one is seen through its manifest.
        data: as for `check`.
        shard: which batches; batches are cut before they are dealt out, so they are the same for every n.
        options: how data is read.
        limits: of the child process.
        initializers: what to do with initializers that are also graph inputs.
        progress: called with (stage, done, total).

    Raises:
        InputError: model or data cannot be used, or there is no batch for this shard.
        WorkerError: the child process crashed, timed out or ran out of memory.
    """
    opened = Source(source) if isinstance(source, (str, Path)) else source
    file = open_subject(opened, initializers=initializers)
    subject, sha256 = _seen(file)
    batches = open_data(data, subject.model, options or DataOptions())
    report = progress or (lambda *_: None)
    found = collect(
        subject, batches, limits=limits.of(file.original), wanted=shard,
        progress=lambda n, of: report("collecting", n, of or 0),
    )  # fmt: skip
    labels = {site.key: site.label for site in subject.sites}
    return Part(
        sha256, found.moments, labels, (shard.index,), shard.count, found.samples, found.batches, batches.description,
        {shard.index: found.sha256}, found.skipped,
    )  # fmt: skip


def _seen(file: Subject) -> tuple[Subject, str]:
    """What is measured, and what it is known by: the bytes of the model, and those of its manifest."""
    sha256 = hashlib.sha256(file.original.buffer).hexdigest()
    records = find_manifest(file.original)
    if records is not None:
        return shown(file, records).subject, hashlib.sha256(f"{sha256} {records.sha256}".encode()).hexdigest()
    if not file.sites:
        raise InputError(
            "stats.no_statistics", "there is no BatchNormalization in this file, and no manifest of folded ones",
            where=str(file.path or ""), hint="record a baseline instead: normfold stats record",
        )  # fmt: skip
    return file, sha256


def collect_over_ray(
    source: str | Path,
    data: Given,
    workers: int,
    *,
    address: str | None = None,
    options: DataOptions | None = None,
    limits: Limits = DEFAULT_LIMITS,
    initializers: Initializers = Initializers.AUTO,
    trust: Trust = DEFAULT_TRUST,
) -> Part:
    """The same measurement, one shard for each of several tasks of a Ray cluster.

    Model and data are named by paths, which every node of the cluster must see.

    Args:
        source: path of the model.
        data: path, or `module:function`.
        workers: tasks.
        address: of a running cluster; None for `RAY_ADDRESS`, else one on this machine.
        options, limits, initializers: as for `collect_part`.
        trust: which links may lead to the data of the model.

    Raises:
        EnvironmentProblem: `environment.ray`, ray is not installed or does not start.
        NormfoldError: as `collect_part`.
    """
    try:
        import ray
    except ImportError:
        raise EnvironmentProblem(
            "environment.ray", "ray is not installed", hint="pip install 'normfold[ray]'"
        ) from None
    started = not ray.is_initialized()
    if started:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        task = ray.remote(num_cpus=1, max_retries=0)(_task)
        shards = [Shard(index, workers) for index in range(workers)]
        wanted = [task.remote(str(source), data, shard, options, limits, initializers, trust) for shard in shards]
        parts: list[Part] = ray.get(wanted)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        if started:
            ray.shutdown()
    return merged(parts, [f"shard {shard.index + 1}/{workers}" for shard in shards])


def _task(
    source: str, data: Given, shard: Shard, options: DataOptions | None, limits: Limits, initializers: Initializers,
    trust: Trust,
) -> Part:  # fmt: skip
    return collect_part(
        Source(source, trust=trust), data, shard, options=options, limits=limits, initializers=initializers
    )


def record_baseline(
    source: str | Path | Source,
    data: Given,
    output: str | Path,
    *,
    options: DataOptions | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> MeasurementReport:
    """Write what trusted data looks like behind every operator with weights, for `check --baseline`.

    Args:
        source: a model, with or without normalisations.
        data: that the model is known to be right on.
        output: where to write.
        options, limits, progress: as for `collect_part`.

    Raises:
        InputError: model or data cannot be used, or there is nothing to measure.
        OutputError: the destination cannot be written.
        WorkerError: the child process crashed, timed out or ran out of memory.
    """
    opened = source if isinstance(source, Source) else Source(source)
    destination = check_output(Path(output), [opened.path, *files_of(data)])
    file = open_subject(opened)
    seen = measurable(file)
    batches = open_data(data, seen.folded.model, options or DataOptions())
    report = progress or (lambda *_: None)
    found = collect(
        seen.subject, batches, only=tuple(seen.by_site), limits=limits.of(file.original),
        progress=lambda n, of: report("collecting", n, of or 0),
    )  # fmt: skip
    records = recorded(seen, found, f"{batches.description}, {found.samples} samples, sha256 {found.sha256[:16]}")
    written = write_file(records.to_bytes(), destination)
    return MeasurementReport(
        version=__version__, output=str(written), data=batches.description, samples=found.samples,
        layers=tuple(MeasuredLayer(node=record.label, n=found.samples) for record in records.records),
        skipped=dict(seen.skipped),
    )  # fmt: skip


def measurement_report(part: Part, written: Path) -> MeasurementReport:
    """What a part holds."""
    labels = {part.labels.get(key, key): reason for key, reason in part.skipped.items()}
    return MeasurementReport(
        version=__version__, output=str(written), data=part.data, samples=part.samples,
        shards=f"{len(part.shards)} of {part.count}", layers=layers(part), skipped=labels,
    )  # fmt: skip


def merge_files(paths: Sequence[Path], *, partial: bool = False) -> Part:
    """Parts that were written by `stats collect`, as one.

    Args:
        paths: of the parts, in any order.
        partial: allow parts to be missing.

    Raises:
        InputError: a part is damaged, missing, in it twice, or of another measurement.
        UsageError: there are no parts.
    """
    if not paths:
        raise UsageError("usage.parts", "no part was named", hint="normfold stats merge a.npz b.npz -o whole.npz")
    whole = merged([read_part(path) for path in paths], [str(path) for path in paths])
    if not partial:
        require_complete(whole)
    return whole


def check_output(output: Path, read: Iterable[Path]) -> Path:
    """Where a measurement is to go: asked before it is made, which may take hours.

    Args:
        output: as the user names it.
        read: files and folders that the measurement is made from.

    Raises:
        OutputError: it cannot be written there, or would replace what is read.
    """
    destination = check_destination(output, None, in_place=False)
    require_apart(destination, read)
    return destination


def write_file(content: bytes, output: Path) -> Path:
    """Write a part or a baseline, whole or not at all.

    Raises:
        OutputError: the destination cannot be written.
    """
    destination = check_destination(output, None, in_place=False)
    with lock(destination), Staging(destination.parent) as staging:
        path = staging.path / destination.name
        try:
            with create(path) as stream:
                stream.write(content)
                sync(stream)
            path.replace(destination)
        except OSError as error:
            raise cannot_write(destination, error) from None
    return destination
