"""load -> plan -> apply -> verify -> write -> report: in that order, never back."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto

from normfold._version import __version__
from normfold.config import Config, VerifyLevel
from normfold.destination import VERSION_KEY, check_destination, lock, require_ours, superseded_data
from normfold.errors import UsageError
from normfold.model.load import Model, load
from normfold.model.patch import Candidate
from normfold.model.source import Fingerprint, Source
from normfold.model.splice import METADATA_PREFIX
from normfold.model.temporary import passing_folder
from normfold.model.write import Staged, Staging, commit, to_bytes, write_companion
from normfold.report.build import decision_reports, op_counts, verification_equal, verification_off, verification_report
from normfold.report.schema import FileReport, Report, SizeReport
from normfold.rounds import Progress, Round, Rounds, wishes
from normfold.surgery.calls import Planned
from normfold.surgery.codes import RULES
from normfold.surgery.everything import plan_everything
from normfold.surgery.plan import Outcome, Plan
from normfold.surgery.planner import Exclusions

if TYPE_CHECKING:
    from normfold.verification import Verification

# The gate and everything behind it are imported where they are used: a run without verification does not pay for them.


@dataclass(frozen=True, slots=True)
class Result:
    """What `optimize` returns.

    Args:
        report: everything that happened.
        plan: the plan that was carried out.
        written: path of the result, None if no output was asked for.
    """

    report: Report
    plan: Plan
    written: Path | None
    _candidate: Candidate

    @property
    def changed(self) -> bool:
        """Whether the result differs from the input."""
        return not self._candidate.is_original

    @property
    def model(self) -> ModelProto:
        """The result in memory, external data taken in.

        Raises:
            InputError: `input.proto_2gib`, it is too large for one message; pass `output` instead.
        """
        model: ModelProto = ModelProto.FromString(to_bytes(self._candidate))
        return model


def optimize(
    source: str | Path | Source | ModelProto,
    output: str | Path | None = None,
    *,
    config: Config | None = None,
    in_place: bool = False,
    overwrite: bool = True,
    dry_run: bool = False,
    keep_rejected: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Fold the normalisations of a model, verify the result, and write it.

    Args:
        source: path of a model, an open `Source`, or a ModelProto, which is not changed.
        output: where to write; None writes nothing, `Result.model` has the result.
        config: settings; the default is what the command line does.
        in_place: allow `output` to be the input.
        overwrite: replace an existing file even if normfold did not write it.
        dry_run: stop at the plan.
        keep_rejected: where to put a candidate that verification refused, for inspection.
        progress: called with (stage, done, total).

    Raises:
        NormfoldError: see `normfold.errors`; nothing is written then.
        GateError: verification refused the result.
    """
    settings = config or Config()
    if not isinstance(source, (ModelProto, Source)):
        source = Source(source, hashed=settings.metadata, trust=settings.trust)
    return _Run(source, settings, progress or _silent, keep_rejected).run(output, in_place, overwrite, dry_run)


def verify(
    original: str | Path, candidate: str | Path, *, config: Config | None = None, progress: Progress | None = None
) -> Verification:
    """Are two models the same function? Compares their interface, then their outputs on the same inputs.

    Args:
        original: the reference.
        candidate: the model under test.
        config: `seed`, `trials`, `inputs`, `shapes`, `rtol`, `atol`, limits.

    Raises:
        NormfoldError: a file, the data or the runtime cannot be used.
    """
    from normfold.gate import options
    from normfold.verification import runtime_info, verify_models

    settings = config or Config()
    runtime_info()
    for path in (original, candidate):
        # Says what a file is that is no model, and lets no runtime see what names other files.
        load(Source(path, hashed=False, trust=settings.trust)).open_data()
    report = progress or _silent
    return verify_models(
        Path(original), Path(candidate), options(settings), progress=lambda n, of: report("verify", n, of)
    )


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""


@dataclass(slots=True)
class _Run:
    source: Source | ModelProto
    config: Config
    progress: Progress
    keep_rejected: str | Path | None
    fingerprint: Fingerprint | None = None

    def run(self, output: str | Path | None, in_place: bool, overwrite: bool, dry_run: bool) -> Result:
        self._check_codes()
        if self.config.verify is not VerifyLevel.OFF and not dry_run:
            from normfold.verification import runtime_info

            runtime_info()
        self.progress("load", 0, 1)
        model = load(self.source, initializers=self.config.initializers)
        destination = None if output is None else check_destination(Path(output), model.path, in_place=in_place)
        rejected = None
        if self.keep_rejected is not None:
            rejected = check_destination(Path(self.keep_rejected), model.path, in_place=False)
        if not dry_run:
            model.open_data()
        self.fingerprint = self._fingerprint(model)
        rounds = Rounds(
            model,
            self.config,
            self.progress,
            self._metadata,
            partial(self._manifest, destination is not None),
            rejected,
        )
        if dry_run:
            return self._result(rounds, rounds.rehearsed(), None, dry_run=True)
        return self._carry_out(rounds, destination, overwrite)

    def _carry_out(self, rounds: Rounds, destination: Path | None, overwrite: bool) -> Result:
        with contextlib.ExitStack() as stack:
            if destination is not None:
                stack.enter_context(lock(destination))
            folder = destination.parent if destination else stack.enter_context(passing_folder())
            staging = Staging(folder, durable=destination is not None and self.config.sync)
            stack.push(staging)  # before it is entered: a signal in between would leave the directory behind
            staging.__enter__()
            name = destination.name if destination else "model.onnx"
            done = rounds.verified(staging, name)
            assert done.staged is not None
            if destination is not None:
                if not overwrite:
                    require_ours(destination, done.staged.model)
                rounds.model.require_unchanged()
                if done.manifest is not None:
                    from normfold.statistics.folded.manifest import manifest_name

                    write_companion(done.staged, manifest_name(destination), done.manifest)
                needed = _needed(rounds.model, done.candidate, destination)
                commit(done.staged, destination, superseded_data(destination, needed))
            return self._result(rounds, done, destination)

    def _check_codes(self) -> None:
        for code in (*self.config.skip, *self.config.only):
            if code not in RULES:
                raise UsageError(
                    "usage.unknown_code", f"unknown rule code {code!r}", hint=f"known are {', '.join(sorted(RULES))}"
                )

    # --- provenance and report ---

    def _fingerprint(self, model: Model) -> Fingerprint | None:
        """That of the source, if it is to be named; it is finished while the model is planned."""
        if not self.config.metadata:
            return None
        known = self.source.fingerprint if isinstance(self.source, Source) else None
        return known or Fingerprint(model.buffer)

    def _metadata(self, plan: Plan) -> dict[str, str]:
        if self.fingerprint is None or plan.is_empty:
            return {}
        counts: dict[str, int] = {}
        for decision in plan.decisions:
            if decision.outcome is Outcome.APPLIED:
                counts[decision.rule] = counts.get(decision.rule, 0) + 1
        return {
            VERSION_KEY: __version__,
            METADATA_PREFIX + "passes": " ".join(f"{code}:{count}" for code, count in sorted(counts.items())),
            METADATA_PREFIX + "source_sha256": self.fingerprint.hexdigest(),
        }

    def _manifest(self, wanted: bool, plan: Plan, candidate: Candidate) -> bytes | None:
        """Statistics of the normalisations that go, for `check` and `recalibrate`; the result names the file."""
        if not (wanted and self.config.manifest) or self.fingerprint is None:
            return None
        from normfold.statistics.folded.manifest import STATS_KEY, manifest

        records = manifest(plan, candidate, self.fingerprint.hexdigest())
        if records is None:
            return None
        content = records.to_bytes()
        candidate.metadata[STATS_KEY] = hashlib.sha256(content).hexdigest()
        return content

    def _result(self, rounds: Rounds, done: Round, written: Path | None, *, dry_run: bool = False) -> Result:
        model, plan, candidate, staged = rounds.model, done.plan, done.candidate, done.staged
        if done.verification is not None:
            verification = verification_report(done.verification)
        elif candidate.is_original and not dry_run:
            verification = verification_equal()
        else:
            verification = verification_off()
        report = Report(
            version=__version__,
            status="planned" if dry_run else "unchanged" if candidate.is_original else "optimized",
            input=FileReport(path=_name(model.path), sha256=self.fingerprint.hexdigest() if self.fingerprint else None),
            output=None
            if written is None or staged is None
            else FileReport(path=str(written), sha256=None, data=staged.data),
            target=self.config.target.value,
            decisions=decision_reports(plan.decisions),
            ops=op_counts(model, candidate),
            bytes=SizeReport(before=_size(model), after=None if staged is None else _size_after(model, staged)),
            verification=None if dry_run else verification,
            dropped=tuple(rounds.dropped),
            warnings=(*model.warnings, *model.file_warnings(), *_notes(plan)),
        )
        return Result(report, plan, written, candidate)


def _notes(plan: Plan) -> tuple[str, ...]:
    """What is remarkable about the sites that were folded, as warnings: it is the model's, not the fold's."""
    return tuple(dict.fromkeys(f"{d.op_type} {d.node!r}: {note}" for d in plan.decisions for note in d.notes))


def _name(path: Path | None) -> str:
    return "<ModelProto>" if path is None else str(path)


def _size(model: Model) -> int:
    return len(model.buffer) + model.external_bytes()


def _needed(model: Model, candidate: Candidate, destination: Path) -> set[str]:
    """Data files beside the destination that are read by what is written there, or go on being read by the source."""
    if model.path == destination and not candidate.is_original:
        return set()
    return {location for location, _, _ in model.external_ranges()}


def _size_after(model: Model, staged: Staged) -> int:
    return staged.model_bytes + (staged.data_bytes or (model.external_bytes() if staged.data is None else 0))


def plan_only(source: str | Path | ModelProto, config: Config | None = None) -> tuple[Model, Planned]:
    """The model and what is planned, for `explain`: nothing is computed, verified or written."""
    settings = config or Config()
    opened = source if isinstance(source, ModelProto) else Source(source, hashed=False, trust=settings.trust)
    model = load(opened, initializers=settings.initializers)
    return model, plan_everything(model, Exclusions({}, settings.skip, settings.only), wishes(settings))
