"""The report of `stats`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from normfold.documents import Document, ErrorReport, Value
from normfold.statistics.shards import Part

MEASUREMENT_SCHEMA_VERSION = "1.0"


class MeasuredLayer(Value):
    """One layer: samples that went through, and the independent values that its poorest channel is worth."""

    node: str
    n: int
    n_eff: float | None = None


class MeasurementReport(Document):
    """What was measured, and where it was written; `shards` as `2 of 8`, None where there are none."""

    schema_version: str = MEASUREMENT_SCHEMA_VERSION
    command: Literal["stats"] = "stats"
    output: str = ""
    data: str = ""
    samples: int = 0
    shards: str | None = None
    layers: tuple[MeasuredLayer, ...] = ()
    skipped: dict[str, str] = Field(default_factory=dict)
    error: ErrorReport | None = None


def layers(part: Part) -> tuple[MeasuredLayer, ...]:
    """In execution order."""
    found = []
    for key, moments in part.moments.items():
        estimate = moments.estimate()
        alive = estimate.n_eff[(estimate.var > 0) & (estimate.n_eff < float("inf"))]
        found.append(
            MeasuredLayer(node=part.labels[key], n=estimate.samples, n_eff=float(alive.min()) if alive.size else None)
        )
    return tuple(found)
