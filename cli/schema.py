"""`normfold schema`."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class Document(StrEnum):
    """The documents that have a schema."""

    REPORT = "report"
    VERIFY = "verify"
    INSPECT = "inspect"


def schema(document: Annotated[Document, typer.Argument(help="Which document.")] = Document.REPORT) -> None:
    """The JSON Schema of what --format json prints."""
    from normfold.report.schema import InspectReport, Report, VerifyReport

    model = {Document.REPORT: Report, Document.VERIFY: VerifyReport, Document.INSPECT: InspectReport}[document]
    typer.echo(json.dumps(model.model_json_schema(), indent=2, sort_keys=True))
