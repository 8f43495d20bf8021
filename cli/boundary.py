"""From an error to one line, or one JSON document, and an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import typer

from .options import Format

if TYPE_CHECKING:
    from normfold import NormfoldError


@contextmanager
def errors(command: str, form: Format, debug: bool, *, exit_zero: bool = False) -> Iterator[None]:
    """Everything that normfold raises on purpose ends here; the rest is a bug and passes through to `main`.

    `exit_zero` hides that the gate said no from the exit code, and nothing else.
    """
    from normfold import NormfoldError

    try:
        yield
    except NormfoldError as error:
        if debug:
            raise
        fail(command, form, error)
        raise typer.Exit(0 if exit_zero and error.exit_code == 1 else error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(closed_pipe()) from None  # typer would make a 1 of it, which means something else


def closed_pipe() -> int:
    """The reader of stdout left: point it elsewhere, so that the interpreter's last flush does not complain."""
    _mute(1)
    return 141


def one_line(text: str) -> str:
    """Text of a library as part of a message."""
    return " ".join(text.split())[:300].rstrip(".")


def refused_by_system(error: OSError) -> NormfoldError:
    """What the system refused, for instance to write to a full disk."""
    from normfold import NormfoldError

    where = "" if error.filename is None else str(error.filename)
    what = one_line(error.strerror or str(error)).lower()
    return NormfoldError("environment.system", f"the system refused: {what}", where=where)


def unprinted(error: OSError) -> int:
    """The exit code of a run whose result could not be printed; the stream is given up."""
    _mute(1)
    fail("", Format.HUMAN, refused_by_system(error))
    return 2


def _mute(descriptor: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def fail(command: str, form: Format, error: NormfoldError) -> None:
    """Say what went wrong: one document on stdout where JSON was asked for, else one line on stderr.

    A stream that takes nothing (a full disk) is left alone; the exit code still says what it means.
    """
    if form is Format.JSON:
        try:
            typer.echo(_document(command, error))
            return
        except BrokenPipeError:
            raise
        except OSError:  # then at least the other stream says it
            _mute(1)
    from .plain import plain

    try:
        typer.echo(f"normfold: {plain(str(error), limit=1000)}", err=True)
    except OSError:
        _mute(2)


def asked_for(arguments: Sequence[str]) -> tuple[str, Format]:
    """Command and format of a command line that could not be read as a whole."""
    command = next((text for text in arguments if not text.startswith("-")), "")
    values = [text.partition("=")[2] for text in arguments if text.startswith("--format=")]
    values += [after for before, after in pairwise(arguments) if before == "--format"]
    return command, Format.JSON if Format.JSON.value in values else Format.HUMAN


def _document(command: str, error: NormfoldError) -> str:
    from pydantic import BaseModel

    from normfold import __version__
    from normfold.report.build import error_report
    from normfold.report.doctor import DoctorReport
    from normfold.report.schema import ExplainReport, InspectReport, Report, TargetsReport, VerifyReport
    from normfold.statistics.measurement import MeasurementReport
    from normfold.statistics.recalibration.schema import RecalibrateReport
    from normfold.statistics.schema import CheckReport

    problem = error_report(error)
    status: Literal["refused", "error"] = "refused" if error.exit_code == 1 else "error"
    document: BaseModel
    match command:
        case "verify":
            document = VerifyReport(version=__version__, error=problem)
        case "check":
            document = CheckReport(version=__version__, error=problem)
        case "recalibrate":
            document = RecalibrateReport(version=__version__, status=status, error=problem)
        case "stats":
            document = MeasurementReport(version=__version__, error=problem)
        case "inspect":
            document = InspectReport(version=__version__, error=problem)
        case "explain":
            document = ExplainReport(version=__version__, error=problem)
        case "targets":
            document = TargetsReport(version=__version__, error=problem)
        case "doctor":
            document = DoctorReport(version=__version__, error=problem)
        case _:
            document = Report(version=__version__, status=status, error=problem)
    return document.model_dump_json(indent=2)
