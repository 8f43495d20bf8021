"""The typer application and its one error boundary. Heavy imports happen inside the commands."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from . import check, doctor, explain, inspect, optimize, recalibrate, rule, schema, stats, targets, verify
from .boundary import asked_for, closed_pipe, fail, one_line, refused_by_system, unprinted

app = typer.Typer(
    name="normfold",
    help="Make the normalisation layers of an exported ONNX model cost nothing, and prove that its numbers stay right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(optimize.optimize)
app.command()(verify.verify)
app.command()(check.check)
app.command()(recalibrate.recalibrate)
app.add_typer(stats.app, name="stats")
app.command()(explain.explain)
app.command()(inspect.inspect)
app.command()(targets.targets)
app.command()(rule.rule)
app.command()(schema.schema)
app.command()(doctor.doctor)


_ENDING = ("SIGTERM", "SIGHUP", "SIGINT")


def _version(wanted: bool) -> None:
    if wanted:
        from normfold import __version__

        typer.echo(f"normfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Nothing to do before a command."""


def main() -> NoReturn:
    """Run, with the documented exit codes: 0 done, 1 the gate said no, 2 usage, input or environment."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # pydantic would look for plugins through the metadata of every installed package at each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(number, _terminated)
    # One short run that builds many small objects and drops none of them: collecting in between only costs time.
    gc.disable()
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = closed_pipe()
    except OSError as error:  # what was printed last does not fit on the disk
        code = unprinted(error)
    # On its way out the interpreter collects once more, whatever was disabled: a tenth of the time of a short run.
    gc.freeze()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """The exit code of a command line; anything but a bug has said why by then."""
    from normfold import NormfoldError, UsageError

    command, form = asked_for(arguments)
    try:
        code = app(arguments, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.Abort:
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        raise
    except Exception as error:
        if "--debug" in arguments:
            raise
        problem: NormfoldError
        if hasattr(error, "format_message"):  # what typer raises for a command line that it cannot read
            message = one_line(error.format_message())
            if not message:  # no arguments at all: the help was shown
                return 2
            known = command in [item.callback.__name__ for item in app.registered_commands if item.callback]
            hint = f"normfold {command} --help" if known else "normfold --help"
            problem = UsageError("usage.arguments", message, hint=hint)
        elif isinstance(error, MemoryError):
            problem = NormfoldError("resource.memory", "out of memory", hint="run it where there is more")
        elif isinstance(error, OSError):
            problem = refused_by_system(error)
        elif isinstance(error, ImportError):
            hint = "is there enough memory? else reinstall it; normfold doctor says more"
            problem = NormfoldError("environment.import", f"a library does not load: {one_line(str(error))}", hint=hint)
        else:
            what = f"internal error: {type(error).__name__}: {one_line(str(error))}"
            problem = NormfoldError("internal", what, hint="run again with --debug and report it")
        fail(command, form, problem)
        return 2


def _terminated(number: int, frame: object) -> None:
    for name in _ENDING:  # cleaning up is not to be disturbed; whoever has no patience sends SIGKILL
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.exit(128 + number)
