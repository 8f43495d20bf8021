"""The report: one value, many renderings. The JSON form is versioned and documented in docs/report.md.

Additions raise the minor number of `schema_version`; anything that could break a reader raises the major one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from normfold.documents import SCHEMA_VERSION, Document, ErrorReport, FileReport, Text, Value

__all__ = ["SCHEMA_VERSION", "Document", "ErrorReport", "FileReport", "Value"]


class DecisionReport(Value):
    """What became of one site."""

    code: str
    outcome: Literal["applied", "refused", "kept"]
    op_type: str
    node: str
    nodes: tuple[str, ...]
    message: str
    site: str
    exactness: Literal["exact", "rounded", "opt-in"] | None = None
    bound: float | None = None
    notes: tuple[str, ...] = ()


class OpCount(Value):
    """Nodes of one operator, in all scopes."""

    op_type: str
    before: int
    after: int


class SizeReport(Value):
    """Bytes of the model with its data."""

    before: int
    after: int | None


class RegionReport(Value):
    """The comparison of one changed region. `error_before` and `error_after` are errors against float64."""

    edits: tuple[str, ...]
    status: str
    level: str
    execution: str
    max_abs: float | None
    bound: float | None
    ratio: float | None
    location: str
    reason: str
    error_before: float | None = None
    error_after: float | None = None


class OutputReport(Value):
    """The comparison of one graph output, end to end."""

    name: str
    status: str
    max_abs: float | None
    max_rel: float | None
    rms: float | None
    cosine: float | None
    max_ulp: float | None
    noise_floor: float | None
    bound: float | None
    ratio: float | None
    location: str
    reason: str


class VerificationReport(Value):
    """What verification established.

    `verdict` is `PASS`, `PASS (improved)`, `INCONCLUSIVE`, `FAIL` or `OFF`; a pass that rests on emulated operators says so
    behind its first word: `PASS (emulated: ...)`, `PASS (improved; emulated: ...)`.
    """

    verdict: str
    level: str
    evidence: tuple[str, ...]
    warnings: tuple[str, ...]
    reason: str
    coverage: float
    regions: tuple[RegionReport, ...]
    outputs: tuple[OutputReport, ...]
    seeds: tuple[int, ...]
    random_inputs: bool
    runtime: str
    optimization: str
    emulated_ops: dict[str, int] = Field(default_factory=dict)
    execution: str = "native"
    target_ep: str = ""
    target_ep_ran: bool = False
    level_reached: str = ""


class DroppedEdit(Value):
    """An edit that verification refused."""

    site: str
    node: str
    reason: str


class Report(Document):
    """Everything that one run of `optimize` has to say."""

    command: Literal["optimize"] = "optimize"
    status: Literal["optimized", "unchanged", "planned", "refused", "error"]
    input: FileReport | None = None
    output: FileReport | None = None
    target: str = "portable"
    decisions: tuple[DecisionReport, ...] = ()
    ops: tuple[OpCount, ...] = ()
    bytes: SizeReport | None = None
    verification: VerificationReport | None = None
    dropped: tuple[DroppedEdit, ...] = ()
    warnings: tuple[str, ...] = ()
    error: ErrorReport | None = None


class VerifyReport(Document):
    """Everything that one run of `verify` has to say."""

    command: Literal["verify"] = "verify"
    original: str = ""
    candidate: str = ""
    verification: VerificationReport | None = None
    error: ErrorReport | None = None


class NormReport(Value):
    """One normalisation of a model, with its parameters at a glance.

    `op_type` is the last of its `nodes` operators, `meaning` what they compute together, and `targets` what each deployment
    target would make of it.
    """

    node: str
    op_type: str
    kind: str
    scope: str
    channels: int | None
    parameters: dict[str, float | int | str | list[int] | list[float] | None]
    foldable: str
    nodes: int = 1
    meaning: str = ""
    targets: dict[str, str] = Field(default_factory=dict)


class InspectReport(Document):
    """What is in a model."""

    command: Literal["inspect"] = "inspect"
    path: Text = ""
    ir_version: int = 0
    opsets: dict[str, int] = Field(default_factory=dict)
    nodes: int = 0
    functions: int = 0
    parameters_bytes: int = 0
    external_data: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    norms: tuple[NormReport, ...] = ()
    affines: int = 0
    warnings: tuple[str, ...] = ()
    error: ErrorReport | None = None


class ExplainReport(Document):
    """Why each norm and affine was folded, or not."""

    command: Literal["explain"] = "explain"
    decisions: tuple[DecisionReport, ...] = ()
    error: ErrorReport | None = None


class KernelReport(Value):
    """An operator of a target, with its limits; no `types` means that there is no kernel.

    `newest_opset` is the last version of the standard for which there is one. `confirmed` is false where only a run on the
    target's hardware could tell, and `question` says what it would have to tell.
    """

    operator: str
    types: tuple[str, ...]
    least_rank: int | None
    greatest_rank: int | None
    newest_opset: int | None
    evidence: Literal["defined by the standard", "measured", "read in source", "reported"]
    confirmed: bool
    note: str
    question: str


class SpellingReport(Value):
    """What a norm may become; `condition` says when, "" for always. A declined one carries its `reason_key`."""

    operator: str
    condition: str
    why: str
    reason_key: str | None = None


class FormReport(Value):
    """What one form of norm becomes, best first."""

    norm: str
    spellings: tuple[SpellingReport, ...]


class TargetReport(Value):
    """A deployment target; `otherwise` says what a norm becomes for which none of its spellings holds."""

    target: str
    title: str
    versions: str
    norms: tuple[FormReport, ...]
    otherwise: str
    kernels: tuple[KernelReport, ...]


class TargetsReport(Document):
    """The tables of the targets."""

    command: Literal["targets"] = "targets"
    targets: tuple[TargetReport, ...] = ()
    error: ErrorReport | None = None
