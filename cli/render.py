"""Results -> stdout, in the form that was asked for. What draws tables is imported for people only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .options import Format
from .plain import plain

if TYPE_CHECKING:
    from pydantic import BaseModel

    from normfold import CheckReport, InspectReport, Report, Verification
    from normfold.report.schema import TargetsReport
    from normfold.statistics.bar import Bar
    from normfold.statistics.measurement import MeasurementReport
    from normfold.statistics.recalibration.schema import RecalibrateReport
    from normfold.statistics.shards import Part
    from normfold.surgery.plan import Decision


def _document(report: BaseModel) -> None:
    typer.echo(report.model_dump_json(indent=2))


@contextmanager
def progress(form: Format) -> Iterator[Callable[[str, int, int], None]]:
    """A progress line on stderr where a person looks at it; nothing otherwise."""
    if form is Format.JSON or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from . import tables

    with tables.status() as status:
        yield lambda stage, done, total: status.update(f"{stage}" + (f" {done}/{total}" if total > 1 else ""))


def optimized(report: Report, form: Format, *, verbose: bool) -> None:
    """The result of `optimize`."""
    if form is Format.JSON:
        return _document(report)
    from . import tables

    return tables.optimized(report, verbose=verbose)


def verified(found: Verification, original: Path, candidate: Path, form: Format) -> None:
    """The result of `verify`."""
    from normfold import VerifyReport, __version__
    from normfold.report.build import verification_report

    report = verification_report(found)
    if form is Format.JSON:
        return _document(
            VerifyReport(version=__version__, original=str(original), candidate=str(candidate), verification=report)
        )
    from . import tables

    return tables.verified(report)


def explained(decisions: Sequence[Decision], node: str | None, form: Format) -> None:
    """The result of `explain`."""
    if form is Format.JSON:
        from normfold import __version__
        from normfold.report.build import decision_reports
        from normfold.report.schema import ExplainReport

        return _document(ExplainReport(version=__version__, decisions=decision_reports(decisions)))
    from . import tables

    return tables.explained(decisions, node)


def inspected(report: InspectReport, form: Format) -> None:
    """The result of `inspect`."""
    if form is Format.JSON:
        return _document(report)
    from . import tables

    return tables.inspected(report)


def targets(report: TargetsReport, form: Format) -> None:
    """The result of `targets`."""
    if form is Format.JSON:
        return _document(report)
    from . import tables

    return tables.targets(report)


def checked(report: CheckReport, form: str, bar: Bar, *, verbose: bool, html: Path | None) -> None:
    """The result of `check`."""
    match form:
        case "json":
            return _document(report)
        case "sarif":
            from normfold.report.check.sarif import sarif

            return typer.echo(sarif(report, bar))
        case "junit":
            from normfold.report.check.junit import junit

            return typer.echo(junit(report, bar), nl=False)
        case "github":
            from normfold.report.check.github import github

            typer.echo(github(report, bar), nl=False)
            return _job_summary(report, bar)
    from . import check_tables

    return check_tables.checked(report, verbose=verbose, html=html)


def _job_summary(report: CheckReport, bar: Bar) -> None:
    """The summary page of the job, where the runner names a file for it; the result does not depend on it."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    from normfold.report.check.markdown import append_summary

    try:
        append_summary(report, Path(path), bar)
    except OSError as error:
        problem = f"GITHUB_STEP_SUMMARY cannot be written: {error.strerror}: {plain(path)}"
        typer.echo(f"normfold: warning: {problem}", err=True)


def recalibrated(report: RecalibrateReport, form: Format) -> None:
    """The result of `recalibrate`."""
    if form is Format.JSON:
        return _document(report)
    from . import recalibrate_tables

    return recalibrate_tables.recalibrated(report)


def measured(part: Part, written: Path, form: Format) -> None:
    """The result of `stats collect` and `stats merge`."""
    from normfold.collecting import measurement_report

    return recorded(measurement_report(part, written), form)


def recorded(report: MeasurementReport, form: Format) -> None:
    """The result of `stats record`."""
    if form is Format.JSON:
        return _document(report)
    from . import recalibrate_tables

    return recalibrate_tables.measured(report)
