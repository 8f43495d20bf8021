"""What verification is asked and what it answers: regions, options, statuses and verdicts.

Every verdict is a frozen value made of plain types, so that `dataclasses.asdict` gives something JSON can carry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .kernels import counted

Array = np.ndarray[Any, np.dtype[Any]]


class Status(StrEnum):
    """How a comparison ended; the text is what people read."""

    PASS = "PASS"
    IMPROVED = "PASS (improved)"
    INCONCLUSIVE = "INCONCLUSIVE"
    SUSPECT = "SUSPECT"
    FAIL = "FAIL"
    ERROR = "ERROR"

    @property
    def passed(self) -> bool:
        """True for PASS and PASS (improved) only."""
        return self in (Status.PASS, Status.IMPROVED)


_SEVERITY = (Status.PASS, Status.IMPROVED, Status.INCONCLUSIVE, Status.SUSPECT, Status.FAIL, Status.ERROR)


def worst(statuses: Iterable[Status], *, default: Status = Status.INCONCLUSIVE) -> Status:
    """Return the gravest of `statuses`, or `default` when there is none: no evidence is not a pass."""
    return max(statuses, key=_SEVERITY.index, default=default)


@dataclass(frozen=True, slots=True)
class Region:
    """One changed region as two standalone models with the same input and output names.

    Args:
        edits: ids of the edits that made it; opaque here.
        before: the region as it was. Its inputs carry an element type and dims: integers, symbols or unknown.
        after: the region as it is now.
    """

    edits: tuple[str, ...]
    before: onnx.ModelProto
    after: onnx.ModelProto


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to verify.

    Args:
        seed: base of every random draw; trial t uses `seed + t`.
        trials: seeded random trials per comparison, at least 1.
        shapes: dims to use for graph inputs, by name.
        inputs: user data by graph input name: one array, or a list with one array per trial.
        timeout_s: seconds one job (one session and its trials) may take in the worker.
        memory_limit_bytes: address space of the worker (RLIMIT_AS), or None for no limit.
        threads: intra-op threads of a session.
        rtol: relative tolerance by output name ("" for every output) instead of the measured noise floor.
        atol: absolute tolerance, likewise.
        improve: accept an output that moved because the rewrite is closer to float64 than the original.
        require_native: a verdict that rests on an emulated operator is INCONCLUSIVE.
        target: the deployment target by name; it decides which provider's kernels count.
        providers: execution providers to run on, () to find out whether the target's is here.
        strict: carried for the caller, who turns INCONCLUSIVE into a refusal; no verdict depends on it.
        isolated: every session has a process of its own, so that what one model does to it cannot reach the other.
        keep_repro: folder that receives the models and inputs of what failed, or None.
    """

    seed: int = 0
    trials: int = 3
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Mapping[str, Array | Sequence[Array]] = field(default_factory=dict)
    timeout_s: float = 600.0
    memory_limit_bytes: int | None = None
    threads: int = 1
    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)
    improve: bool = True
    require_native: bool = False
    target: str = "portable"
    providers: tuple[str, ...] = ()
    strict: bool = False
    isolated: bool = False
    keep_repro: Path | None = None


@dataclass(frozen=True, slots=True)
class RegionVerdict:
    """The verdict on one region (level L2).

    `max_abs`, `bound` and `ratio` describe the element with the largest |difference| / bound; `rms` is the root mean
    square difference of its output. `error_before` and `error_after` are the largest |difference| from a float64 evaluation
    of the region as it was, of both sides; they are there where that was asked. Numbers are None where nothing could be
    measured or no number can express it. `execution` says what computed the two sides: native, expanded (the function body
    of an operator), emulated (its definition in float64), or what stood in for a type without kernels. `emulated` counts
    the emulated operators, `location` names the element as `output[index]`, `reason` explains every status but PASS.
    """

    edits: tuple[str, ...]
    status: Status
    level: str = "L2"
    execution: str = "native"
    max_abs: float | None = None
    bound: float | None = None
    ratio: float | None = None
    rms: float | None = None
    location: str = ""
    seed: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reason: str = ""
    error_before: float | None = None
    error_after: float | None = None
    emulated: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutputVerdict:
    """The verdict on one graph output over all trials (level L3).

    The numbers belong to the trial with the largest ratio. `noise_floor` is the δ that one-ulp weight jitter causes;
    `cosine` (similarity in [-1, 1]) and `max_ulp` inform, they decide nothing.
    """

    name: str
    status: Status
    max_abs: float | None = None
    max_rel: float | None = None
    rms: float | None = None
    cosine: float | None = None
    max_ulp: float | None = None
    noise_floor: float | None = None
    bound: float | None = None
    ratio: float | None = None
    location: str = ""
    seed: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the numbers were measured with."""

    seeds: tuple[int, ...] = ()
    shapes: tuple[Mapping[str, tuple[int, ...]], ...] = ()
    ort_version: str = ""
    provider: str = "CPUExecutionProvider"
    optimization: str = "ORT_DISABLE_ALL"
    random_inputs: bool = True


@dataclass(frozen=True, slots=True)
class Verification:
    """Everything one verification established.

    Args:
        status: the gravest of regions and outputs.
        level: the highest level that ran: "L0", "L2" or "L3".
        regions: verdicts of level L2, empty where regions were not compared.
        outputs: verdicts of level L3.
        coverage: share in [0, 1] of compared outputs (or regions) that had a finite, varying value in some trial.
        evidence: what the verdict rests on, one sentence each.
        warnings: what weakens it, one sentence each.
        reason: why the status is not PASS; "" when it is.
        settings: seeds, shapes, versions.
        emulated_ops: operators that were emulated because their kernel is not here, with the number of nodes.
        execution: the weakest way in which a norm operator of the whole models was computed: native, expanded, emulated.
        target_ep: the execution provider that the target's models run on, "" if it names none.
        target_ep_ran: whether the whole models ran there.
    """

    status: Status
    level: str
    regions: tuple[RegionVerdict, ...] = ()
    outputs: tuple[OutputVerdict, ...] = ()
    coverage: float = 0.0
    evidence: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str = ""
    settings: Settings = field(default_factory=Settings)
    emulated_ops: Mapping[str, int] = field(default_factory=dict)
    execution: str = "native"
    target_ep: str = ""
    target_ep_ran: bool = False

    @property
    def level_reached(self) -> str:
        """The level, and whether it was reached by emulation."""
        return f"{self.level} (emulated)" if self.emulated_ops and self.level != "L0" else self.level

    @property
    def text(self) -> str:
        """The verdict for people. A pass that rests on emulation says so and is never shortened to PASS."""
        if not (self.status.passed and self.emulated_ops):
            return self.status.value
        detail = f"emulated: {counted(self.emulated_ops)} - graph surgery verified, kernel not run"
        return f"PASS (improved; {detail})" if self.status is Status.IMPROVED else f"PASS ({detail})"


def number(value: float) -> float | None:
    """Return `value` as a plain float, or None where JSON has no word for it (NaN, infinity)."""
    return float(value) if math.isfinite(value) else None
