"""`recalibrate`: estimate, store, stage, re-check on held-out data, write; what does not help is not written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto
from pydantic import ConfigDict, Field

from normfold._version import __version__
from normfold.destination import VERSION_KEY, check_destination, lock, require_apart, require_ours
from normfold.documents import FileReport, Value
from normfold.errors import GateError, InputError, UsageError
from normfold.model.load import Initializers
from normfold.model.patch import Candidate
from normfold.model.source import Source
from normfold.model.splice import METADATA_PREFIX
from normfold.model.staging import Staged, Staging, cannot_write
from normfold.model.temporary import passing_folder
from normfold.model.tensors import RangeRefusal
from normfold.model.write import commit, stage, write_companion
from normfold.statistics.collect import Array, DataSource
from normfold.statistics.data import DataOptions, open_data
from normfold.statistics.data.opening import Given, files_of
from normfold.statistics.folded.manifest import manifest_name
from normfold.statistics.from_file import from_file
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.passes import DEFAULT_LIMITS, Limits, Runtime
from normfold.statistics.recalibration.estimate import Estimated, Estimator, Variance
from normfold.statistics.recalibration.gate import judge
from normfold.statistics.recalibration.labels import of_part, read_labels
from normfold.statistics.recalibration.pieces import Piece, piece_of
from normfold.statistics.recalibration.reporting import repair_report
from normfold.statistics.recalibration.schema import RecalibrateReport
from normfold.statistics.recalibration.split import Split
from normfold.statistics.recalibration.undo import SUFFIX as UNDO_SUFFIX
from normfold.statistics.recalibration.undo import undo_patch
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import open_subject
from normfold.statistics.thresholds import Thresholds

Progress = Callable[[str, int, int], None]
# Findings of the file that a repair of statistics would hide instead of solve.
_UNRESOLVED = ("M01", "M04", "M05")


class RecalibrateConfig(Value):
    """Settings of `recalibrate`.

    Args:
        variance: what is stored: of the values as they are, or n/(n−1) times it, as PyTorch stores it.
        prior: weight of the stored statistics, in samples; 0 replaces them.
        only: labels or keys of the normalisations to repair; () for all.
        min_gain: smallest drop of J of the worst layer, on held-out data, that is worth a repair.
        thresholds: limits under which data is refused.
        data: how data is read.
        limits: of the child process.
        initializers: what to do with initializers that are also graph inputs.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    variance: Variance = "population"
    prior: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    only: tuple[str, ...] = ()
    min_gain: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    thresholds: Thresholds = Thresholds()
    data: DataOptions = DataOptions()
    limits: Limits = DEFAULT_LIMITS
    initializers: Initializers = Initializers.AUTO


@dataclass(frozen=True, slots=True)
class Recalibration:
    """What `recalibrate` returns.

    Args:
        report: everything that happened.
        written, undo: paths of the model and of the way back, None if no output was asked for.
    """

    report: RecalibrateReport
    written: Path | None
    undo: Path | None


def recalibrate(
    source: str | Path | Source | ModelProto,
    output: str | Path | None = None,
    *,
    data: Given,
    labels: Sequence[int] | Array | None = None,
    config: RecalibrateConfig | None = None,
    in_place: bool = False,
    overwrite: bool = True,
    progress: Progress | None = None,
) -> Recalibration:
    """Estimate the running statistics of a model anew, and write it if that helps on data that was held out.

    Args:
        source: a model with normalisations, or a folded one with its manifest beside it.
        output: where to write; None writes nothing and reports what would be.
        data: as for `check`; three quarters are estimated on, one is held out.
        labels: class of each sample in the order of the data; right answers must then not become fewer.
        config: settings.
        in_place: allow `output` to be the input.
        overwrite: replace an existing file even if normfold did not write it.
        progress: called with (stage, done, total).

    Raises:
        InputError: model or data cannot be used, the data is too small or not shuffled, or the model has problems that new
            statistics would hide.
        GateError: `gate.no_gain`, the repair does not help; nothing was written.
        OutputError: the destination cannot be written.
        WorkerError: the child process crashed, timed out or ran out of memory.
    """
    settings = config or RecalibrateConfig()
    subject = open_subject(
        Source(source) if isinstance(source, (str, Path)) else source, initializers=settings.initializers
    )
    destination = None if output is None else check_destination(Path(output), subject.path, in_place=in_place)
    if destination is not None:
        require_apart(destination, files_of(data))
    piece = piece_of(subject)
    batches = open_data(data, piece.subject.model, settings.data)
    given = None
    if labels is not None:
        given = read_labels(labels, batches, limited=settings.data.limit is not None)
    return _Run(piece, batches, given, settings, progress or (lambda *_: None)).run(destination, overwrite)


@dataclass(slots=True)
class _Run:
    piece: Piece
    source: DataSource
    labels: Array | None
    settings: RecalibrateConfig
    progress: Progress

    def run(self, destination: Path | None, overwrite: bool) -> Recalibration:
        self._require_resolved()
        chosen = self._chosen()
        with contextlib.ExitStack() as stack:
            runtime = stack.enter_context(Runtime(self.settings.limits.of(self.piece.file.original)))
            estimated = self._estimated(runtime, chosen)
            if destination is None:
                folder = stack.enter_context(passing_folder())
            else:
                stack.enter_context(lock(destination))
                folder = destination.parent
            staging = stack.enter_context(Staging(folder))
            name = destination.name if destination else "model.onnx"
            candidate, staged = self._staged(estimated, staging, name)
            report = self._judged(estimated, staged, runtime)
            if destination is None:
                return Recalibration(report, None, None)
            if not overwrite:
                require_ours(destination, staged.model)
            undo = destination.with_name(f"{destination.stem}{UNDO_SUFFIX}")
            self._write_undo(candidate, staged, undo.name)
            self.piece.file.original.require_unchanged()
            commit(staged, destination)
        written = FileReport(path=str(destination), sha256=None, data=staged.data)
        return Recalibration(report.model_copy(update={"output": written, "undo": str(undo)}), destination, undo)

    # --- what is repaired ---

    def _require_resolved(self) -> None:
        for found in from_file(self.piece.file, self.settings.thresholds).findings:
            if found.code in _UNRESOLVED and found.severity != "info":
                raise InputError(
                    "recalibrate.mode",
                    f"{found.code}: {found.message}; new statistics would not change that",
                    where=found.node,
                    hint="export the model in evaluation mode first",
                )
        if not any(site.has_statistics for site in self.piece.subject.sites):
            raise InputError(
                "recalibrate.no_statistics",
                "there are no running statistics in this file, and no manifest of folded ones",
                where=str(self.piece.file.path or ""),
                hint="recalibrate the model before it is folded, or fold it with normfold optimize",
            )

    def _chosen(self) -> set[str]:
        wanted = set(self.settings.only)
        sites = self.piece.subject.sites
        unknown = wanted - {name for site in sites for name in (site.label, site.key)}
        if unknown:
            known = ", ".join(site.label for site in sites[:8])
            raise UsageError("usage.node", f"no normalisation is called {min(unknown)!r}", hint=f"there are {known}, …")
        return {
            site.key
            for site in sites
            if site.key not in self.piece.obstacles and (not wanted or {site.label, site.key} & wanted)
        }

    def _estimated(self, runtime: Runtime, chosen: set[str]) -> Estimated:
        s = self.settings
        estimator = Estimator(
            runtime, s.thresholds, s.variance, s.prior, chosen, self.piece.fixed, progress=self.progress
        )
        estimated = estimator.run(self.piece.subject, Split(self.source, held_out=False))
        if not estimated.statistics:
            reasons = {**estimated.skipped, **self.piece.obstacles}
            why = next(iter(reasons.values()), "there is none")
            raise InputError("recalibrate.nothing", f"no normalisation can be repaired: {why}")
        return estimated

    # --- writing and judging ---

    def _staged(self, estimated: Estimated, staging: Staging, name: str) -> tuple[Candidate, Staged]:
        s = self.settings
        said = f"samples={estimated.samples} variance={s.variance} prior={s.prior:g} data={estimated.sha256[:16]}"
        metadata = {METADATA_PREFIX + "recalibrated": said, VERSION_KEY: __version__}
        candidate, manifest = self.piece.repaired(estimated.statistics, metadata)
        self.progress("writing", 0, 1)
        try:
            staged = stage(candidate, staging, name)
        except RangeRefusal as refusal:
            raise InputError(
                "recalibrate.range", f"the new statistics do not fit: {refusal.reason}", where=refusal.tensor.name
            ) from None
        if manifest is not None:
            write_companion(staged, manifest_name(Path(name)), manifest)
        return candidate, staged

    def _judged(self, estimated: Estimated, staged: Staged, runtime: Runtime) -> RecalibrateReport:
        """Run held-out data through the original and through what was written.

        Raises:
            GateError: it does not help.
        """
        held_out = Split(self.source, held_out=True)
        again = self.piece.reopened(staged.model)
        self.progress("judging", 0, 2)
        before = collect(self.piece.subject, held_out, runtime=runtime)
        self.progress("judging", 1, 2)
        after = collect(again, held_out, runtime=runtime)
        labels = None if self.labels is None else of_part(self.labels, held_out)
        judged = judge(
            _sites(self.piece.subject.sites), before, _sites(again.sites), after,
            min_gain=self.settings.min_gain, labels=labels,
        )  # fmt: skip
        if not judged.gate.accepted:
            raise GateError(
                "gate.no_gain", judged.gate.reason, where=self.source.description,
                hint="the statistics may be fine already: see normfold check --data",
            )  # fmt: skip
        s = self.settings
        return repair_report(self.piece, estimated, judged, self.source.description, s.variance, s.prior, __version__)

    def _write_undo(self, candidate: Candidate, staged: Staged, name: str) -> None:
        try:
            content = staged.model.read_bytes()
        except OSError as error:
            raise cannot_write(staged.directory, error) from None
        write_companion(staged, name, undo_patch(candidate, content, self.piece.manifest).to_bytes())


def _sites(sites: Sequence[StatSite]) -> dict[str, StatSite]:
    return {site.key: site for site in sites}
