"""`normfold rule`."""

from __future__ import annotations

from typing import Annotated

import typer

from .boundary import errors
from .options import Format


def rule(
    code: Annotated[
        str | None,
        typer.Argument(help="A code such as NF101, NF101.shared or S01.", metavar="[CODE]", show_default=False),
    ] = None,
) -> None:
    """The page of a rule or reason code; without a code, the catalogue."""
    with errors("rule", Format.HUMAN, False):
        from normfold import UsageError
        from normfold.statistics import codes as findings
        from normfold.surgery.codes import KEY_MEANING, RULES, meaning

        if code is None:
            for item in RULES.values():
                typer.echo(f"{item.code}  {item.name}")
                for key in item.keys:
                    typer.echo(f"    {item.code}.{key}: {KEY_MEANING[key]}")
            for finding in findings.RULES.values():
                typer.echo(f"{finding.code}  {finding.name}: {finding.title}")
            return
        page = meaning(code) or findings.meaning(code)
        if page is None:
            raise UsageError("usage.unknown_code", f"unknown code {code!r}", hint="`normfold rule` lists them all")
        typer.echo(f"{code}: {page}")
