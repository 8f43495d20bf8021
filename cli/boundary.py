"""From a NormfoldError to one line, or one JSON document, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from .options import Format

if TYPE_CHECKING:
    from normfold import NormfoldError


@contextmanager
def errors(command: str, form: Format, debug: bool) -> Iterator[None]:
    """Everything that normfold raises on purpose ends here; the rest is a bug and passes through.

    With `--format json` stdout carries exactly one document also in this case.
    """
    from normfold import NormfoldError

    try:
        yield
    except NormfoldError as error:
        if debug:
            raise
        if form is Format.JSON:
            typer.echo(_document(command, error))
        else:
            from .render import plain

            typer.echo(f"normfold: {plain(str(error))}", err=True)
        raise typer.Exit(error.exit_code) from None
    except FileNotFoundError as error:
        typer.echo(f"normfold: {error.filename}: no such file", err=True)
        raise typer.Exit(2) from None


def _document(command: str, error: NormfoldError) -> str:
    from normfold import Report, VerifyReport, __version__
    from normfold.report.build import error_report

    problem = error_report(error)
    if command == "verify":
        return VerifyReport(version=__version__, original="", candidate="", error=problem).model_dump_json(indent=2)
    status = "refused" if error.exit_code == 1 else "error"
    return Report(version=__version__, status=status, error=problem).model_dump_json(indent=2)
