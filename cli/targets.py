"""`normfold targets`."""

from __future__ import annotations

from typing import Annotated

import typer

from .boundary import errors
from .options import Debug, Format, FormatOption, TargetName


def targets(
    target: Annotated[
        TargetName | None,
        typer.Argument(help="One target; all without it.", metavar="[TARGET]", show_default=False),
    ] = None,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """What each norm becomes on each deployment target, which kernels there are, and how that is known."""
    with errors("targets", format, debug):
        from normfold import Target
        from normfold.report.targets import targets_report

        from . import render

        render.targets(targets_report(None if target is None else Target(target.value)), format)
