"""One round after the other, until nothing is left to drop: plan, apply, stage, verify.

Rolling back an edit is a new plan without it, so a round is always complete: what is written is exactly what was verified.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.config import Config, VerifyLevel
from normfold.errors import GateError, InputError, OutputError
from normfold.model.load import Model
from normfold.model.patch import Candidate
from normfold.model.temporary import passing_folder, writing_temporary_files
from normfold.model.tensors import NewTensor, RangeRefusal
from normfold.model.write import Staged, Staging, stage
from normfold.report.schema import DroppedEdit
from normfold.surgery.apply import apply
from normfold.surgery.calls import Planned, rests_on_inlining
from normfold.surgery.everything import Wishes, plan_everything
from normfold.surgery.norms import NormEdit, TurnEdit
from normfold.surgery.plan import Edit, Plan, Stage, stages
from normfold.surgery.planner import Exclusions

if TYPE_CHECKING:
    from normfold.verification import Repair, Verification

# The gate and everything behind it are imported where they are used: a run without verification does not pay for them.

Progress = Callable[[str, int, int], None]

# Every round drops at least one edit; this many mean that something is systematically wrong.
_ROUNDS = 64


@dataclass(slots=True)
class Round:
    """One complete attempt: the plan, what it makes, where that stands on disk, and what is written beside it."""

    plan: Plan
    candidate: Candidate
    staged: Staged | None = None
    manifest: bytes | None = None
    verification: Verification | None = None


@dataclass(slots=True)
class Rounds:
    """The rounds of one run.

    Args:
        model: the original.
        config: settings.
        progress: called with (stage, done, total).
        metadata: what to record in the result of a plan.
        manifest: makes the file beside a result, and lets the result name it.
        keep_rejected: where to put a candidate that verification refused.
        excluded: sites that must be left alone, with key and reason.
        dropped: what verification refused so far.
    """

    model: Model
    config: Config
    progress: Progress
    metadata: Callable[[Plan], dict[str, str]]
    manifest: Callable[[Plan, Candidate], bytes | None] = lambda *_: None
    keep_rejected: Path | None = None
    excluded: dict[str, tuple[str, str]] = field(default_factory=dict)
    dropped: list[DroppedEdit] = field(default_factory=list)

    def verified(self, staging: Staging, name: str) -> Round:
        """The first round in which nothing is left to drop, staged under that name.

        Raises:
            GateError: verification refused the result.
        """
        for _ in range(_ROUNDS):
            attempt = None
            while attempt is None:
                attempt = self._attempt(staging, name)
            if self.config.verify is VerifyLevel.OFF or attempt.candidate.is_original:
                return attempt
            guilty = self._judge(attempt, staging, name)
            if not guilty:
                return attempt
            self._drop(attempt, guilty)
        raise GateError(
            "gate.unstable", f"edits were still failing after {_ROUNDS} rounds", hint="please report this model"
        )

    def _attempt(self, staging: Staging, name: str, excluded: dict[str, tuple[str, str]] | None = None) -> Round | None:
        """Plan, apply and stage; None if folded weights left their range, after excluding the last edit of each."""
        left_out = self.excluded if excluded is None else excluded
        planned = self._plan(left_out)
        plan = planned.plan
        _require_data(plan)
        candidate = apply(planned.model, plan, self.metadata(plan))
        manifest = self.manifest(plan, candidate)
        self.progress("write", 0, 1)
        try:
            return Round(plan, candidate, stage(candidate, staging, name, overlay=self.config.overlay), manifest)
        except RangeRefusal:
            self._exclude_ranges(plan, candidate, left_out)
            return None

    def _plan(self, excluded: dict[str, tuple[str, str]]) -> Planned:
        exclusions = Exclusions(excluded, self.config.skip, self.config.only)
        return plan_everything(self.model, exclusions, wishes(self.config))

    def _exclude_ranges(self, plan: Plan, candidate: Candidate, excluded: dict[str, tuple[str, str]]) -> bool:
        """Compute every new weight and throw it away; exclude the last edit of each that leaves its range."""
        count = len(excluded)
        for tensor in candidate.new_tensors():
            try:
                for _ in tensor.blocks():
                    pass
            except RangeRefusal as refusal:
                edit = _made(refusal.tensor, stages(plan, candidate))
                excluded.update({node.key: ("dtype-range", refusal.reason) for node in edit.bypassed})
        return len(excluded) > count

    def rehearsed(self) -> Round:
        """The plan of a dry run; every new weight is computed, so that it says what a run would do."""
        while True:
            planned = self._plan(self.excluded)
            plan = planned.plan
            candidate = apply(planned.model, plan, self.metadata(plan))
            if not self._exclude_ranges(plan, candidate, self.excluded):
                return Round(plan, candidate)

    # --- the gate ---

    def _judge(self, attempt: Round, staging: Staging, name: str) -> dict[str, str]:
        """Edits that must go, with the reason; the verification is left in the round."""
        from normfold.gate import combine, judge_regions, options, require_worker, unproven
        from normfold.verification import Status, verify_regions
        from normfold.verification.norm_edits import NormRegions
        from normfold.verification.plan_regions import RegionList

        assert attempt.staged is not None
        taken = stages(attempt.plan, attempt.candidate)
        parts = [part for stage in taken for part in (
            NormRegions(stage.plan.norms, self.model.ir_version), RegionList(stage.plan, stage.candidate)
        )]  # fmt: skip
        count = sum(map(len, parts))
        verdicts = verify_regions(
            itertools.chain(*parts),
            options(self.config),
            progress=lambda n, of: self.progress("regions", n, of or count),
        )
        require_worker(verdicts)
        merges = {edit.id for stage in taken for edit in stage.plan.edits if edit.is_merge}
        inlined = rests_on_inlining(Planned(attempt.candidate.model, attempt.plan))
        guilty = judge_regions(verdicts, merges)
        if guilty:
            self._keep(attempt.staged)
            return guilty
        if self.config.verify is VerifyLevel.REGION:
            attempt.verification = combine(verdicts, None)
            return unproven(verdicts, merges) | inlined
        repairs = self._repairs(attempt, {e for v in verdicts if v.status is Status.IMPROVED for e in v.edits})
        whole = self._compare(attempt.staged, list(repairs.values()))
        if whole.status in (Status.FAIL, Status.SUSPECT, Status.ERROR):
            self._keep(attempt.staged)
            return self._find_culprits(attempt, staging, name, whole, repairs)
        attempt.verification = combine(verdicts, whole)
        if whole.status is Status.INCONCLUSIVE:
            return unproven(verdicts, merges) | inlined or self._inconclusive(whole)
        return {}

    def _repairs(self, attempt: Round, improved: Collection[str]) -> dict[str, Repair]:
        """The norms that are closer to the truth than they were: what is behind them in the original is off as well."""
        from normfold.verification import Repair
        from normfold.verification.norm_edits import NormRegions

        edits = [e for e in attempt.plan.all_edits if e.id in improved and isinstance(e, NormEdit)]
        regions = NormRegions(edits, self.model.ir_version)
        return {edit.id: Repair.of(region) for edit, region in zip(edits, regions, strict=True)}

    def _inconclusive(self, whole: Verification) -> dict[str, str]:
        if self.config.strict:
            raise GateError(
                "gate.inconclusive",
                f"the whole model could not be compared: {whole.reason}",
                hint="pass --inputs or --shape",
            )
        return {}

    def _compare(self, staged: Staged, repairs: Sequence[Repair]) -> Verification:
        from normfold.gate import options
        from normfold.verification import verify_models

        report = lambda n, of: self.progress("whole model", n, of)  # noqa: E731
        with _on_disk(self.model) as original:
            return verify_models(
                original,
                staged.model,
                options(self.config),
                progress=report,
                frozen=frozenset(self.model.frozen),
                repairs=repairs,
            )

    def _find_culprits(
        self, attempt: Round, staging: Staging, name: str, whole: Verification, repairs: Mapping[str, Repair]
    ) -> dict[str, str]:
        """Every region passed and the model did not: halve the edits until the culprits stand alone."""
        from normfold.gate import bisect

        reason = f"the whole model differs: {whole.reason or _worst_output(whole)}"
        edits = attempt.plan.all_edits
        if not edits:
            raise GateError("gate.failed", reason, hint="--initializers keep leaves the initializers as inputs")

        def fails(part: Sequence[Edit | NormEdit | TurnEdit]) -> bool:
            reason_ = ("verification", "left out while searching")
            others = {key: reason_ for edit in edits if edit not in part for key in edit.keys}
            round_ = self._attempt(staging, name, {**self.excluded, **others})
            if round_ is None or round_.staged is None:
                return False
            left = [repairs[edit.id] for edit in part if edit.id in repairs]
            return not self._compare(round_.staged, left).status.passed

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

    def _drop(self, attempt: Round, guilty: dict[str, str]) -> None:
        if self.config.all_or_nothing:
            site, reason = next(iter(guilty.items()))
            raise GateError("gate.failed", f"{len(guilty)} edits failed verification: {reason}", where=site)
        for edit in attempt.plan.all_edits:
            if edit.id in guilty:
                self.excluded |= dict.fromkeys(edit.keys, ("verification", guilty[edit.id]))
                self.dropped.append(DroppedEdit(site=edit.id, node=edit.label, reason=guilty[edit.id]))


@contextlib.contextmanager
def _on_disk(model: Model) -> Iterator[Path]:
    if model.path is not None:
        yield model.path
        return
    with passing_folder() as folder:
        path = folder / "original.onnx"
        with writing_temporary_files():
            path.write_bytes(model.buffer)
        yield path


def _made(tensor: NewTensor, taken: Sequence[Stage]) -> Edit:
    """The last of the edits that went into a new tensor."""
    stage = next(stage for stage in reversed(taken) if id(tensor) in stage.candidate.owners)
    owner = stage.candidate.owners[id(tensor)]
    return next(edit for edit in reversed(stage.plan.edits) if any(slot.node is owner for slot in edit.slots))


def wishes(config: Config) -> Wishes:
    """What the settings want of a plan."""
    return Wishes(config.target, config.threads, config.aggressive, config.precise)


def _require_data(plan: Plan) -> None:
    """A model whose data cannot be read is not worth a copy; a dry run and `explain` still say what they can.

    Raises:
        InputError: `extdata.unreadable`.
    """
    for decision in plan.decisions:
        if decision.code.endswith(".external-data"):
            hint = "copy the data file of this very model beside it"
            raise InputError("extdata.unreadable", decision.message, where=decision.node, hint=hint)


def _worst_output(whole: Verification) -> str:
    bad = [item for item in whole.outputs if not item.status.passed]
    return f"{bad[0].name}: {bad[0].reason or f'max abs {bad[0].max_abs}'}" if bad else whole.status.value
