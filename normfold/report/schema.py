"""The report: one value, many renderings. The JSON form is versioned and documented in docs/report.md.

Additions raise the minor number of `schema_version`; anything that could break a reader raises the major one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from normfold.documents import SCHEMA_VERSION, Document, DocumentValue, ErrorReport, FileReport

__all__ = [
    "SCHEMA_VERSION",
    "DecisionReport",
    "DroppedEdit",
    "ErrorReport",
    "ExplainReport",
    "FileReport",
    "InspectReport",
    "NormReport",
    "OpCount",
    "OutputReport",
    "RegionReport",
    "Report",
    "SizeReport",
    "VerificationReport",
    "VerifyReport",
]


class DecisionReport(DocumentValue):
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


class OpCount(DocumentValue):
    """Nodes of one operator, in all scopes."""

    op_type: str
    before: int
    after: int


class SizeReport(DocumentValue):
    """Bytes of the model with its data."""

    before: int
    after: int | None


class RegionReport(DocumentValue):
    """The comparison of one changed region."""

    edits: tuple[str, ...]
    status: str
    level: str
    execution: str
    max_abs: float | None
    bound: float | None
    ratio: float | None
    location: str
    reason: str


class OutputReport(DocumentValue):
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


class VerificationReport(DocumentValue):
    """What verification established. `verdict` is `PASS`, `PASS (improved)`, `INCONCLUSIVE`, `FAIL` or `OFF`."""

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


class DroppedEdit(DocumentValue):
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


class NormReport(DocumentValue):
    """One normalisation of a model, with its parameters at a glance."""

    node: str
    op_type: str
    kind: str
    scope: str
    channels: int | None
    parameters: dict[str, float | int | str | list[int] | list[float] | None]
    foldable: str


class InspectReport(Document):
    """What is in a model."""

    command: Literal["inspect"] = "inspect"
    path: str = ""
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
