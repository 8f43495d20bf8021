"""load -> plan -> apply -> verify -> write -> report: in that order, never back.

Rolling back an edit is a new plan without it, so a round of the loop is always complete: what is written is exactly what
was verified.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto

from normfold._version import __version__
from normfold.config import Config, VerifyLevel
from normfold.destination import VERSION_KEY, check_destination, lock, require_ours, superseded_data
from normfold.errors import GateError, InputError, OutputError, UsageError
from normfold.model.load import Model, load
from normfold.model.opener import absolute, open_model
from normfold.model.patch import Candidate
from normfold.model.source import Fingerprint, Source
from normfold.model.splice import METADATA_PREFIX
from normfold.model.tensors import RangeRefusal
from normfold.model.write import Staged, Staging, commit, stage, to_bytes
from normfold.report.build import decision_reports, op_counts, verification_equal, verification_off, verification_report
from normfold.report.schema import DroppedEdit, FileReport, Report, SizeReport
from normfold.surgery.apply import apply
from normfold.surgery.calls import Planned, plan_model, rests_on_inlining
from normfold.surgery.codes import RULES
from normfold.surgery.plan import Edit, Outcome, Plan
from normfold.surgery.planner import Exclusions

if TYPE_CHECKING:
    from normfold.verification import Verification, VerifyOptions

# The gate and everything behind it are imported where they are used: a run without verification does not pay for them.

Progress = Callable[[str, int, int], None]

# Every round drops at least one edit; this many mean that something is systematically wrong.
_ROUNDS = 64


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
        source = Source(source, hashed=settings.metadata)
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
    from normfold.verification import runtime_info, verify_models

    settings = config or Config()
    runtime_info()
    for path in (original, candidate):
        open_model(absolute(path)).close()  # says what a file is that is no model
    report = progress or _silent
    return verify_models(
        Path(original), Path(candidate), _options(settings), progress=lambda n, of: report("verify", n, of)
    )


def _silent(stage: str, done: int, total: int) -> None:
    """No progress wanted."""


def _options(config: Config) -> VerifyOptions:
    from normfold.verification import VerifyOptions

    return VerifyOptions(
        seed=config.seed,
        trials=config.trials,
        shapes=config.shapes,
        inputs=config.inputs,
        timeout_s=config.timeout_s,
        memory_limit_bytes=config.memory_limit,
        rtol=config.rtol,
        atol=config.atol,
        strict=config.strict,
    )


@dataclass(slots=True)
class _Round:
    """One complete attempt: the plan, what it makes, and where that stands on disk."""

    plan: Plan
    candidate: Candidate
    staged: Staged | None = None
    verification: Verification | None = None


@dataclass(slots=True)
class _Run:
    source: Source | ModelProto
    config: Config
    progress: Progress
    keep_rejected: str | Path | None
    excluded: dict[str, tuple[str, str]] = field(default_factory=dict)
    dropped: list[DroppedEdit] = field(default_factory=list)
    fingerprint: Fingerprint | None = None

    def run(self, output: str | Path | None, in_place: bool, overwrite: bool, dry_run: bool) -> Result:
        self._check_codes()
        if self.config.verify is not VerifyLevel.OFF and not dry_run:
            from normfold.verification import runtime_info

            runtime_info()
        self.progress("load", 0, 1)
        model = load(self.source, initializers=self.config.initializers)
        destination = None if output is None else check_destination(Path(output), model.path, in_place=in_place)
        if self.keep_rejected is not None:
            self.keep_rejected = check_destination(Path(self.keep_rejected), model.path, in_place=False)
        self.fingerprint = self._fingerprint(model)
        if dry_run:
            return self._result(model, self._rehearse(model), None, None, dry_run=True)
        return self._carry_out(model, destination, overwrite)

    def _carry_out(self, model: Model, destination: Path | None, overwrite: bool) -> Result:
        with contextlib.ExitStack() as stack:
            if destination is not None:
                stack.enter_context(lock(destination))
            folder = (
                destination.parent
                if destination
                else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="normfold-")))
            )
            staging = Staging(folder)
            stack.push(staging)  # before it is entered: a signal in between would leave the directory behind
            staging.__enter__()
            name = destination.name if destination else "model.onnx"
            done = self._verified(model, staging, name)
            assert done.staged is not None
            if destination is None:
                return self._result(model, done, None, done.staged)
            if not overwrite:
                require_ours(destination, done.staged.model)
            commit(done.staged, destination, superseded_data(destination, _needed(model, done.candidate, destination)))
            return self._result(model, done, destination, done.staged)

    def _check_codes(self) -> None:
        for code in (*self.config.skip, *self.config.only):
            if code not in RULES:
                raise UsageError(
                    "usage.unknown_code", f"unknown rule code {code!r}", hint=f"known are {', '.join(sorted(RULES))}"
                )

    # --- one round after the other, until nothing is left to drop ---

    def _verified(self, model: Model, staging: Staging, name: str) -> _Round:
        for _ in range(_ROUNDS):
            attempt = None
            while attempt is None:
                attempt = self._attempt(model, staging, name)
            if self.config.verify is VerifyLevel.OFF or attempt.candidate.is_original:
                return attempt
            guilty = self._judge(model, attempt, staging, name)
            if not guilty:
                return attempt
            self._drop(attempt, guilty)
        raise GateError(
            "gate.unstable", f"edits were still failing after {_ROUNDS} rounds", hint="please report this model"
        )

    def _attempt(
        self, model: Model, staging: Staging, name: str, excluded: dict[str, tuple[str, str]] | None = None
    ) -> _Round | None:
        """Plan, apply and stage; None if folded weights left their range, after excluding the last edit of each."""
        left_out = self.excluded if excluded is None else excluded
        planned = plan_model(model, Exclusions(left_out, self.config.skip, self.config.only))
        plan = planned.plan
        _require_data(plan)
        candidate = apply(planned.model, plan, self._metadata(plan))
        self.progress("write", 0, 1)
        try:
            return _Round(plan, candidate, stage(candidate, staging, name))
        except RangeRefusal:
            self._exclude_ranges(plan, candidate, left_out)
            return None

    def _exclude_ranges(self, plan: Plan, candidate: Candidate, excluded: dict[str, tuple[str, str]]) -> bool:
        """Compute every new weight and throw it away; exclude the last edit of each that leaves its range."""
        count = len(excluded)
        for tensor in candidate.new_tensors():
            try:
                for _ in tensor.blocks():
                    pass
            except RangeRefusal as refusal:
                owner = candidate.owners[id(refusal.tensor)]
                edit = next(edit for edit in reversed(plan.edits) if any(slot.node is owner for slot in edit.slots))
                excluded.update({node.key: ("dtype-range", refusal.reason) for node in edit.bypassed})
        return len(excluded) > count

    def _rehearse(self, model: Model) -> _Round:
        """The plan of a dry run; every new weight is computed, so that it says what a run would do."""
        while True:
            planned = plan_model(model, Exclusions(self.excluded, self.config.skip, self.config.only))
            plan = planned.plan
            candidate = apply(planned.model, plan, self._metadata(plan))
            if not self._exclude_ranges(plan, candidate, self.excluded):
                return _Round(plan, candidate)

    # --- the gate ---

    def _judge(self, model: Model, attempt: _Round, staging: Staging, name: str) -> dict[str, str]:
        """Edits that must go, with the reason; the verification is left in the round."""
        from normfold.gate import combine, judge_regions, require_worker, unproven
        from normfold.verification import Status, verify_regions
        from normfold.verification.plan_regions import RegionList

        assert attempt.staged is not None
        regions = RegionList(attempt.plan, attempt.candidate)
        verdicts = verify_regions(
            regions, _options(self.config), progress=lambda n, of: self.progress("regions", n, of or len(regions))
        )
        require_worker(verdicts)
        guilty = judge_regions(verdicts)
        if guilty:
            self._keep(attempt.staged)
            return guilty
        inlined = rests_on_inlining(Planned(attempt.candidate.model, attempt.plan))
        if self.config.verify is VerifyLevel.REGION:
            attempt.verification = combine(verdicts, None)
            return unproven(verdicts) | inlined
        whole = self._compare(model, attempt.staged)
        if whole.status in (Status.FAIL, Status.SUSPECT, Status.ERROR):
            self._keep(attempt.staged)
            return self._find_culprits(model, attempt, staging, name, whole)
        attempt.verification = combine(verdicts, whole)
        if whole.status is Status.INCONCLUSIVE:
            return unproven(verdicts) | inlined or self._inconclusive(whole)
        return {}

    def _inconclusive(self, whole: Verification) -> dict[str, str]:
        if self.config.strict:
            raise GateError(
                "gate.inconclusive",
                f"the whole model could not be compared: {whole.reason}",
                hint="pass --inputs or --shape",
            )
        return {}

    def _compare(self, model: Model, staged: Staged) -> Verification:
        from normfold.verification import verify_models

        options = _options(self.config)
        report = lambda n, of: self.progress("whole model", n, of)  # noqa: E731
        with self._on_disk(model) as original:
            return verify_models(original, staged.model, options, progress=report, frozen=frozenset(model.frozen))

    @contextlib.contextmanager
    def _on_disk(self, model: Model) -> Iterator[Path]:
        if model.path is not None:
            yield model.path
            return
        with tempfile.TemporaryDirectory(prefix="normfold-") as folder:
            path = Path(folder) / "original.onnx"
            path.write_bytes(model.buffer)
            yield path

    def _find_culprits(
        self, model: Model, attempt: _Round, staging: Staging, name: str, whole: Verification
    ) -> dict[str, str]:
        """Every region passed and the model did not: halve the edits until the culprits stand alone."""
        from normfold.gate import bisect

        reason = f"the whole model differs: {whole.reason or _worst_output(whole)}"
        edits = attempt.plan.edits
        if not edits:
            raise GateError("gate.failed", reason, hint="--initializers keep leaves the initializers as inputs")
        all_keys = {edit.id: edit for edit in edits}

        def fails(part: Sequence[Edit]) -> bool:
            others = {
                node.key: ("verification", "left out while searching")
                for key, e in all_keys.items()
                if e not in part
                for node in e.bypassed
            }
            round_ = self._attempt(model, staging, name, {**self.excluded, **others})
            return (
                round_ is not None
                and round_.staged is not None
                and not self._compare(model, round_.staged).status.passed
            )

        return {edit.id: reason for edit in bisect(edits, fails)}

    def _keep(self, staged: Staged) -> None:
        """Put what was refused, with its data, where the user wants to look at it."""
        if self.keep_rejected is None:
            return
        target = Path(self.keep_rejected)
        try:
            shutil.copyfile(staged.model, target)
            if staged.data is not None:
                shutil.copyfile(staged.directory / staged.data, target.parent / staged.data)
        except OSError as error:
            message = f"the refused model cannot be kept: {error.strerror or error}"
            raise OutputError("output.unwritable", message, where=str(target)) from None

    def _drop(self, attempt: _Round, guilty: dict[str, str]) -> None:
        if self.config.all_or_nothing:
            site, reason = next(iter(guilty.items()))
            raise GateError("gate.failed", f"{len(guilty)} edits failed verification: {reason}", where=site)
        for edit in attempt.plan.edits:
            if edit.id in guilty:
                for node in edit.bypassed:
                    self.excluded[node.key] = ("verification", guilty[edit.id])
                self.dropped.append(DroppedEdit(site=edit.id, node=edit.bypassed[0].label, reason=guilty[edit.id]))

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

    def _result(
        self, model: Model, done: _Round, written: Path | None, staged: Staged | None, *, dry_run: bool = False
    ) -> Result:
        plan, candidate = done.plan, done.candidate
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
            dropped=tuple(self.dropped),
            warnings=tuple(model.warnings),
        )
        return Result(report, plan, written, candidate)


def _require_data(plan: Plan) -> None:
    """A model whose data cannot be read is not worth a copy; a dry run and `explain` still say what they can.

    Raises:
        InputError: `extdata.unreadable`.
    """
    for decision in plan.decisions:
        if decision.code.endswith(".external-data"):
            hint = "copy the data file of this very model beside it"
            raise InputError("extdata.unreadable", decision.message, where=decision.node, hint=hint)


def _name(path: Path | None) -> str:
    return "<ModelProto>" if path is None else str(path)


def _worst_output(whole: Verification) -> str:
    bad = [item for item in whole.outputs if not item.status.passed]
    return f"{bad[0].name}: {bad[0].reason or f'max abs {bad[0].max_abs}'}" if bad else whole.status.value


def _size(model: Model) -> int:
    return len(model.buffer) + external_bytes(model)


def _needed(model: Model, candidate: Candidate, destination: Path) -> set[str]:
    """Data files beside the destination that are read by what is written there, or go on being read by the source."""
    if model.path == destination and not candidate.is_original:
        return set()
    return {location for location, _, _ in _external_ranges(model)}


def external_bytes(model: Model) -> int:
    """Bytes of the tensors that lie outside of the model file."""
    return sum(length for _, _, length in _external_ranges(model))


def _external_ranges(model: Model) -> set[tuple[str, int, int]]:
    ranges: set[tuple[str, int, int]] = set()
    for scope in model.scopes():
        tensors = [tensor for _, tensor in scope.outline.initializers]
        tensors += [tensor for node in scope.nodes for tensor in node.outline.tensors.values()]
        ranges |= {(t.external.location, t.external.offset, t.nbytes) for t in tensors if t.external is not None}
    return ranges


def _size_after(model: Model, staged: Staged) -> int:
    return staged.model_bytes + (staged.data_bytes or (external_bytes(model) if staged.data is None else 0))


def plan_only(source: str | Path | ModelProto, config: Config | None = None) -> tuple[Model, Planned]:
    """The model and what is planned, for `explain`: nothing is computed, verified or written."""
    settings = config or Config()
    model = load(source, initializers=settings.initializers)
    return model, plan_model(model, Exclusions({}, settings.skip, settings.only))
