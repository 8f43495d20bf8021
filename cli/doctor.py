"""`normfold doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .boundary import errors
from .options import Debug, Format, FormatOption

if TYPE_CHECKING:
    from normfold.report.doctor import DoctorReport, Package


def doctor(
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """Say whether normfold can work here: versions, runtime, providers, telemetry, limits.

    Exit code 0: it can; 1: something is missing, doubled, broken or below its security floor.
    """
    form = Format.JSON if json else format
    with errors("doctor", form, debug):
        from normfold.doctor import examine

        report = examine()
        if form is Format.JSON:
            typer.echo(report.model_dump_json(indent=2))
        else:
            _show(report)
    raise typer.Exit(0 if report.ok else 1)


def _show(report: DoctorReport) -> None:
    from .plain import plain

    lines = [f"normfold   {report.version}", f"python     {report.python}, {report.platform}"]
    lines += [f"package    {_package(package)}" for package in report.packages]
    lines.append(f"runtime    {_package(report.runtime) if report.runtime else '-'}")
    if report.opset is not None:
        lines.append(f"standard   up to opset {report.opset}, IR version {report.ir_version}")
    lines += [f"provider   {found.name}: {found.reason or 'works'}" for found in report.providers]
    lines.append(f"telemetry  {report.telemetry}")
    if report.limits is not None:
        files = report.limits.open_files or "any number of"
        memory = f"{report.limits.memory >> 20} MiB of memory" if report.limits.memory else "memory unknown"
        lines.append(f"limits     {files} open files, {memory}, {report.limits.cpus} processors")
        lines.append(f"temporary  {report.limits.temporary}, {report.limits.temporary_free >> 20} MiB free")
    for problem in report.problems:
        lines.append(f"{problem.level}: {problem.message}" + (f" - {problem.hint}" if problem.hint else ""))
    lines.append("fit for work" if report.ok else "not fit for work")
    for line in lines:
        typer.echo(plain(line, limit=1000))


def _package(package: Package) -> str:
    return f"{package.name} {package.version or 'missing'} (at least {package.least})"
