"""The typer application and its one error boundary. Heavy imports happen inside the commands."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from . import explain, inspect, optimize, rule, schema, verify

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
app.command()(explain.explain)
app.command()(inspect.inspect)
app.command()(rule.rule)
app.command()(schema.schema)


def _version(wanted: bool) -> None:
    if wanted:
        from normfold import __version__

        typer.echo(f"normfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Nothing to do before a command."""


def main() -> NoReturn:
    """Run, with the documented exit codes: 0 done, 1 the gate said no, 2 usage, input or environment."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    signal.signal(signal.SIGTERM, _terminated)
    # One short run that builds many small objects and drops none of them: collecting in between only costs time.
    gc.disable()
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # the reader left: point stdout elsewhere so that the interpreter's last flush does not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 141
    except Exception as error:
        if debug:
            raise
        typer.echo(f"normfold: internal error: {type(error).__name__}: {_one_line(error)} - run again with --debug and report it", err=True)
        code = 2
    sys.exit(code)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _terminated(number: int, frame: object) -> None:
    sys.exit(128 + number)
