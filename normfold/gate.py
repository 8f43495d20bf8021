"""The gate: which edits have earned their place, and which must go.

An edit needs evidence: its region passed, or its region could not run and the whole model passed. A region that fails
names its edits; of a region with a merge, the merge. If every region passes and the whole model does not, the edits are
halved until the culprits stand alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from normfold.config import Config
from normfold.errors import WorkerError
from normfold.verification import RegionVerdict, Status, Verification, VerifyOptions, worst

E = TypeVar("E")

_GUILTY = (Status.FAIL, Status.SUSPECT, Status.ERROR)


def judge_regions(verdicts: Sequence[RegionVerdict], merges: Collection[str] = ()) -> dict[str, str]:
    """Edits whose region failed, with the reason.

    Args:
        verdicts: of all regions.
        merges: edits that merge operators. They tie the folds of all their branches into one region; where it fails, they
            go first, and the next round judges the folds by themselves.
    """
    return {
        edit: f"{verdict.status.value}: {verdict.reason or verdict.location}"
        for verdict in verdicts
        if verdict.status in _GUILTY
        for edit in _suspects(verdict, merges)
    }


def _suspects(verdict: RegionVerdict, merges: Collection[str]) -> Sequence[str]:
    return [edit for edit in verdict.edits if edit in merges] or verdict.edits


def require_worker(verdicts: Sequence[RegionVerdict]) -> None:
    """A child process that fails at every region says nothing about edits: something is wrong with it.

    Raises:
        WorkerError: with the code of the first failure.
    """
    if not verdicts or any(verdict.status is not Status.ERROR for verdict in verdicts):
        return
    code, _, message = verdicts[0].reason.partition(": ")
    if code.startswith(("worker.", "resource.")):
        hint = "raise --max-memory" if code == "resource.memory" else "check that onnxruntime runs here"
        raise WorkerError(code, f"nothing could be compared: {message}", hint=hint)


def unproven(verdicts: Sequence[RegionVerdict], merges: Collection[str] = ()) -> dict[str, str]:
    """Edits whose region could not be judged, with the reason; `merges` as in `judge_regions`."""
    return {
        edit: verdict.reason
        for verdict in verdicts
        if verdict.status is Status.INCONCLUSIVE
        for edit in _suspects(verdict, merges)
    }


def combine(regions: Sequence[RegionVerdict], whole: Verification | None) -> Verification:
    """One verification of regions and whole model.

    A whole model that says nothing (it is random, or cannot run here) leaves the verdict to the regions; it stays
    INCONCLUSIVE, because nobody saw the wiring.
    """
    judged = [verdict.status for verdict in regions if verdict.status is not Status.INCONCLUSIVE]
    passed = sum(status.passed for status in judged)
    evidence: tuple[str, ...] = (
        (f"{passed} of {len(regions)} changed regions equal within the rounding bound",) if regions else ()
    )
    better = sum(status is Status.IMPROVED for status in judged)
    evidence += (f"{better} of them closer to float64 than the original; outputs change on purpose",) if better else ()
    emulated = sum((Counter(verdict.emulated) for verdict in regions), Counter())
    skipped = len(regions) - len(judged)
    warnings = (f"{skipped} regions could not run by themselves and rest on the whole model",) if skipped else ()
    if whole is None:
        status = worst(verdict.status for verdict in regions) if regions else Status.PASS
        return Verification(
            status,
            "L2",
            tuple(regions),
            coverage=passed / max(len(regions), 1),
            evidence=evidence,
            warnings=warnings,
            emulated_ops=dict(emulated),
        )
    return replace(
        whole,
        status=worst((*judged, whole.status)),
        regions=tuple(regions),
        evidence=(*evidence, *whole.evidence),
        warnings=(*warnings, *whole.warnings),
        emulated_ops=dict(Counter(whole.emulated_ops) | emulated),
    )


def bisect(edits: Sequence[E], fails: Callable[[Sequence[E]], bool]) -> list[E]:
    """A small set of edits without which the model passes, found by halving.

    Args:
        edits: together they fail.
        fails: whether a subset alone fails.
    """
    pending: list[Sequence[E]] = [edits]
    guilty: list[E] = []
    while pending:
        group = pending.pop()
        if len(group) == 1:
            guilty += group
            continue
        half = len(group) // 2
        bad = [part for part in (group[:half], group[half:]) if fails(part)]
        if not bad:
            guilty += group  # neither half fails alone: only together, so both go
        pending += bad
    return guilty


def options(config: Config) -> VerifyOptions:
    """How to compare, of all settings."""
    return VerifyOptions(
        seed=config.seed,
        trials=config.trials,
        shapes=config.shapes,
        inputs=config.inputs,
        timeout_s=config.timeout_s,
        memory_limit_bytes=config.memory_limit,
        rtol=config.rtol,
        atol=config.atol,
        improve=not config.no_improve,
        require_native=config.require_native,
        target=config.target.value,
        strict=config.strict,
        isolated=config.trust.untrusted,
    )
