"""The cases. Each takes a folder to work in and the number of runs, and returns its figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from benchmarks.generate.large import chain, cnn, transformer
from benchmarks.measure.process import median, run
from benchmarks.scale.external import external_case
from benchmarks.scale.goal import Figure, growth, ratio
from benchmarks.scale.runs import ORT, Done, interleaved, once, typically
from benchmarks.scale.trust import TRUST_CASES
from benchmarks.tools import NORMFOLD, Tool, normfold_program, normfold_works

MB = 1e6
CHAIN_NODES = (7_500, 15_000, 30_000)
NODES_PER_NORM = 10  # of the transformer: nine that spell a norm and one beside it, of which two should be left
Case = Callable[[Path, int], list[Figure]]


def cnn_case(work: Path, runs: int) -> list[Figure]:
    """A CNN of 150 nodes and 118 MB in one file: beside onnxruntime, and at most three times the file in memory."""
    path = work / "cnn.onnx"
    onnx.save(cnn(), path)
    done = interleaved(path, runs)
    ours, ort, size = done.get(NORMFOLD.name), done.get(ORT.name), path.stat().st_size
    gone = not normfold_works()
    against = ratio(ours and ours.wall, ort and ort.wall)
    return [
        Figure("cnn", "onnxruntime offline, wall", ort and ort.wall),
        Figure("cnn", "onnxruntime offline, peak / file", ort and ort.peak / size, unit="×"),
        Figure("cnn", "normfold, wall", ours and ours.wall),
        Figure("cnn", "normfold / onnxruntime, wall", against, 1.0, "×", gone),
        Figure("cnn", "normfold, peak / file", ours and ours.peak / size, 3.0, "×", gone),
        Figure("cnn", "normfold, BatchNorms left", ours and ours.norms, 0, "nodes", gone),
    ]


def chain_case(work: Path, runs: int) -> list[Figure]:
    """Conv → BatchNorm → Relu, ever longer: time may grow with the size, not with its square."""
    done: list[dict[str, Done]] = []
    for nodes in CHAIN_NODES:
        path = work / f"chain_{nodes}.onnx"
        onnx.save(chain(nodes), path)
        done.append(interleaved(path, runs))
    gone = not normfold_works()
    seconds, growing = _chain_seconds(done, NORMFOLD)
    last = done[-1].get(NORMFOLD.name)
    ort_seconds, ort_growing = _chain_seconds(done, ORT)
    return [
        *(Figure("chain", f"onnxruntime offline, {n} nodes", s) for n, s in ort_seconds.items()),
        Figure("chain", "onnxruntime offline, growth per doubling", ort_growing, unit="×"),
        *(
            Figure("chain", f"normfold, {n} nodes", s, 6.0 if n == CHAIN_NODES[-1] else None, "s", gone)
            for n, s in seconds.items()
        ),
        Figure("chain", "normfold, growth per doubling", growing, 2.3, "×", gone),
        Figure("chain", "normfold, BatchNorms left", last and last.norms, 0, "nodes", gone),
    ]


def _chain_seconds(done: list[dict[str, Done]], tool: Tool) -> tuple[dict[int, float | None], float | None]:
    """Seconds by number of nodes, and the growth where every size was done."""
    walls = [one[tool.name].wall if tool.name in one else None for one in done]
    known = [wall for wall in walls if wall is not None]
    return dict(zip(CHAIN_NODES, walls, strict=True)), growth(known) if len(known) == len(walls) else None


def transformer_case(work: Path, runs: int) -> list[Figure]:
    """Decomposed LayerNorms, ever more: recognised, confirmed and spelled anew in time that grows with their number."""
    done: list[dict[str, Done]] = []
    for nodes in CHAIN_NODES:
        path = work / f"transformer_{nodes}.onnx"
        onnx.save(transformer(nodes), path)
        taken = [once(NORMFOLD, path) for _ in range(runs)] if normfold_works() else []
        typical = typically(taken)
        done.append({NORMFOLD.name: typical} if typical else {})
    gone = not normfold_works()
    seconds, growing = _chain_seconds(done, NORMFOLD)
    last = done[-1].get(NORMFOLD.name)
    wanted = 2 * CHAIN_NODES[-1] // NODES_PER_NORM
    return [
        *(
            Figure("transformer", f"normfold, {n} nodes", s, 8.0 if n == CHAIN_NODES[-1] else None, "s", gone)
            for n, s in seconds.items()
        ),
        Figure("transformer", "normfold, growth per doubling", growing, 2.3, "×", gone),
        Figure("transformer", "normfold, peak", last and last.peak / MB, unit="MB"),
        Figure("transformer", "normfold, nodes left", last and last.nodes, wanted, "nodes", gone),
    ]


def help_case(work: Path, runs: int) -> list[Figure]:
    """`normfold --help`, median of ten."""
    program = normfold_program()
    costs = [run([program, "--help"], 60) for _ in range(10)] if program else []
    ours = median(costs) if costs and all(cost.ok for cost in costs) else None
    return [Figure("help", "normfold --help", ours and ours.wall, 0.3, "s", not normfold_works())]


CASES: dict[str, Case] = {
    "cnn": cnn_case,
    "chain": chain_case,
    "transformer": transformer_case,
    "external": external_case,
    "help": help_case,
    **TRUST_CASES,
}
