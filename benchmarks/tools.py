"""The tools in the race: for each, the command that turns one model file into another."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.measure.process import run
from benchmarks.setup_peers import peers_python

DRIVERS = Path(__file__).with_name("drivers")


@dataclass(frozen=True)
class Tool:
    """A named command line.

    Args:
        name: column of the table.
        command: source and destination to arguments.
    """

    name: str
    command: Callable[[Path, Path], list[str]]


def normfold_program() -> str | None:
    """The installed `normfold` beside this interpreter, or the first on the path."""
    beside = Path(sys.executable).with_name("normfold")
    return str(beside) if beside.exists() else shutil.which("normfold")


def normfold_works() -> bool:
    """Whether `normfold optimize` can be called at all."""
    program = normfold_program()
    return program is not None and run([program, "optimize", "--help"], 60).ok


def normfold_command(source: Path, destination: Path, verify: str = "off", target: str = "portable") -> list[str]:
    """The call of normfold that is measured; models run on one thread."""
    options = ["--verify", verify, "--format", "json", "--target", target, "--threads", "1"]
    return [normfold_program() or "normfold", "optimize", str(source), "-o", str(destination), *options]


def driver_command(source: Path, destination: Path, *, driver: str, arguments: tuple[str, ...] = ()) -> list[str]:
    """A peer's driver under the peers' own interpreter; `-P` keeps the drivers' folder from being imported from."""
    return [str(peers_python()), "-P", str(DRIVERS / driver), *arguments, str(source), str(destination)]


def _peer(name: str, driver: str, *arguments: str) -> Tool:
    return Tool(name, partial(driver_command, driver=driver, arguments=arguments))


NORMFOLD = Tool("normfold", normfold_command)
NORMFOLD_ORT = Tool("normfold, ort-cpu", partial(normfold_command, target="ort-cpu"))
NORMFOLD_FULL = Tool("normfold, verified", partial(normfold_command, verify="full"))
PEERS = (
    _peer("ort basic", "run_ort.py", "basic"),
    _peer("ort extended", "run_ort.py", "extended"),
    _peer("onnxsim", "run_onnxsim.py"),
    _peer("onnxslim", "run_onnxslim.py"),
    _peer("onnxscript", "run_onnxscript.py"),
    _peer("onnxoptimizer", "run_onnxoptimizer.py"),
)


def available() -> tuple[Tool, ...]:
    """The tools that can run here; normfold's columns come first as soon as it works."""
    ours = (NORMFOLD, NORMFOLD_ORT, NORMFOLD_FULL) if normfold_works() else ()
    return ours + (PEERS if peers_python().exists() else ())
