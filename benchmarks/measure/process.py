"""Whole processes, measured: wall time and peak memory of a command."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Cost:
    """What one run of a command cost.

    Args:
        code: its return code; negative for a signal.
        wall: seconds from start to exit.
        peak: largest resident size, bytes.
        tail: the end of what it printed, for error messages.
    """

    code: int
    wall: float
    peak: int
    tail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the command exited with 0."""
        return self.code == 0


def run(command: Sequence[str], timeout: float = 300.0) -> Cost:
    """Run `command` through the launcher and return its cost; past `timeout` seconds it is killed (code -9)."""
    launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(timeout), *command]
    done = subprocess.run(launch, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    return Cost(told["code"], told["wall"], told["peak_kib"] * 1024, told["tail"])


def median(costs: Sequence[Cost]) -> Cost:
    """The typical run: median wall, largest peak, and the first failure's code where one failed."""
    failed = next((cost for cost in costs if not cost.ok), costs[0])
    wall = statistics.median(cost.wall for cost in costs)
    return Cost(failed.code, wall, max(cost.peak for cost in costs), failed.tail)


def module_json(python: str, module: str, *arguments: str, timeout: float = 300.0) -> dict[str, object] | None:
    """Run `python -m module arguments…` from the repository root; its one JSON document, or None if it died.

    Raises:
        subprocess.TimeoutExpired: it took longer than `timeout` seconds, which says nothing about the model.
    """
    root = Path(__file__).resolve().parents[2]
    command = [python, "-m", module, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        return None
    told: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return told
