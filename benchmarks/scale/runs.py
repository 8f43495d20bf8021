"""Running normfold and onnxruntime on a file for the scale cases, in turns."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.measure.count import remaining
from benchmarks.measure.process import run
from benchmarks.tools import NORMFOLD, PEERS, Tool, normfold_works

ORT = PEERS[0]
TIMEOUT = 900.0


def contenders() -> tuple[Tool, ...]:
    """normfold where it works, and onnxruntime's offline optimisation (basic: the level that folds)."""
    return (NORMFOLD, ORT) if normfold_works() else (ORT,)


@dataclass(frozen=True)
class Done:
    """What a tool cost on a scale model, and the BatchNormalizations and nodes that it left."""

    wall: float
    peak: int
    norms: int
    nodes: int


def interleaved(source: Path, runs: int) -> dict[str, Done]:
    """The typical run of each contender on `source` by name; those that failed are left out."""
    tools = contenders()
    taken: dict[str, list[Done | None]] = {tool.name: [] for tool in tools}
    for _ in range(runs):
        for tool in tools:
            taken[tool.name].append(once(tool, source))
    typical = {name: typically(some) for name, some in taken.items()}
    return {name: done for name, done in typical.items() if done}


def once(tool: Tool, source: Path) -> Done | None:
    """One run into a fresh folder beside the source, removed afterwards; None where the tool failed."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        result = Path(folder) / "out.onnx"
        cost = run(tool.command(source, result), TIMEOUT)
        if not cost.ok or not result.exists():
            print(f"{tool.name} failed on {source.name}: {cost.tail[-300:]}", file=sys.stderr)
            return None
        left = remaining(onnx.load(result, load_external_data=False))
        return Done(cost.wall, cost.peak, left.norms, left.nodes)


def typically(taken: Sequence[Done | None]) -> Done | None:
    """Median wall, largest peak and counts; None of nothing, or where any run failed."""
    done = [one for one in taken if one]
    if not done or len(done) < len(taken):
        return None
    wall = statistics.median(one.wall for one in done)
    peak, norms, nodes = (max(figures) for figures in zip(*((o.peak, o.norms, o.nodes) for o in done), strict=True))
    return Done(wall, peak, norms, nodes)
