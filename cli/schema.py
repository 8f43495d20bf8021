"""`normfold schema`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from .boundary import errors
from .options import Format


class Document(StrEnum):
    """The documents that have a schema."""

    REPORT = "report"
    VERIFY = "verify"
    INSPECT = "inspect"
    EXPLAIN = "explain"
    TARGETS = "targets"
    DOCTOR = "doctor"
    CHECK = "check"
    RECALIBRATE = "recalibrate"
    STATS = "stats"


def schema(document: Annotated[Document, typer.Argument(help="Which document.")] = Document.REPORT) -> None:
    """The JSON Schema of what --format json prints."""
    from pydantic import BaseModel

    from normfold.report.doctor import DoctorReport
    from normfold.report.schema import ExplainReport, InspectReport, Report, TargetsReport, VerifyReport
    from normfold.statistics.measurement import MeasurementReport
    from normfold.statistics.recalibration.schema import RecalibrateReport
    from normfold.statistics.schema import CheckReport

    models: dict[Document, type[BaseModel]] = {
        Document.REPORT: Report,
        Document.VERIFY: VerifyReport,
        Document.INSPECT: InspectReport,
        Document.EXPLAIN: ExplainReport,
        Document.TARGETS: TargetsReport,
        Document.DOCTOR: DoctorReport,
        Document.CHECK: CheckReport,
        Document.RECALIBRATE: RecalibrateReport,
        Document.STATS: MeasurementReport,
    }
    model = models[document]
    with errors("schema", Format.HUMAN, False):
        typer.echo(json.dumps(model.model_json_schema(), indent=2, sort_keys=True))
