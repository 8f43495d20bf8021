"""normfold beside its peers, on the same models, in one run: `python -m benchmarks.peers --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from subprocess import TimeoutExpired

import onnx

from benchmarks.measure.count import Remaining, remaining
from benchmarks.measure.process import Cost, median, module_json, run
from benchmarks.results import ORIGINAL, Row, base_tool, totals
from benchmarks.setup_peers import peers_python
from benchmarks.sources import CORPUS, Source, sources
from benchmarks.table import costs_table, markdown, models_table, show, totals_table
from benchmarks.tools import Tool, available

TIMEOUT = 300.0
TOO_SLOW, DIED = "took too long", "the runtime died"


def measure(source: Source, tools: Sequence[Tool], runs: int, seeds: int, work: Path) -> Iterator[Row]:
    """All rows of one model: the original first, then every tool."""
    model = f"{source.group}/{source.name}"
    expected = work / "reference.npz"
    problem = prepare(source.path, expected, seeds)
    yield Row(model, ORIGINAL, "unknown" if problem else "right", problem, count(source.path))
    results = {tool.name: work / f"{k}.onnx" for k, tool in enumerate(tools)}
    costs = run_interleaved(source.path, tools, results, runs)
    for tool in tools:
        cost, result = costs[tool.name], results[tool.name]
        if not cost.ok or not result.exists():
            yield Row(model, tool.name, "failed", reason(cost), None, cost.wall, cost.peak)
            continue
        word, why = ("unknown", problem) if problem else judge(expected, result)
        speed = None if problem or word == "wrong" else race(expected, source.path, result)
        yield Row(model, tool.name, word, why, count(result), cost.wall, cost.peak, speed)
        result.unlink()


def run_interleaved(source: Path, tools: Sequence[Tool], results: dict[str, Path], runs: int) -> dict[str, Cost]:
    """Every tool `runs` times, in turns, so that a slow minute of the machine hits all of them."""
    taken: dict[str, list[Cost]] = {tool.name: [] for tool in tools}
    for _ in range(runs):
        for tool in tools:
            results[tool.name].unlink(missing_ok=True)
            taken[tool.name].append(run(tool.command(source, results[tool.name]), TIMEOUT))
    return {name: median(costs) for name, costs in taken.items()}


def prepare(original: Path, expected: Path, seeds: int) -> str:
    """Write the reference of the original; why that is impossible, or ""."""
    try:
        told = module("reference", str(original), str(expected), str(seeds))
    except TimeoutExpired:
        return TOO_SLOW
    return DIED if told is None else str(told.get("error", ""))


def judge(expected: Path, result: Path) -> tuple[str, str]:
    """The verdict on a result; a runtime that dies on it makes it wrong, one that takes too long says nothing."""
    try:
        told = module("compare", str(expected), str(result))
    except TimeoutExpired:
        return "unknown", TOO_SLOW
    return ("wrong", DIED) if told is None else (str(told["word"]), str(told["why"]))


def race(expected: Path, original: Path, result: Path) -> float | None:
    """Inference speed-up of the result, or None where either side does not run deployed."""
    try:
        told = module("race", str(expected), str(original), str(result))
    except TimeoutExpired:
        return None
    return None if told is None else float(str(told["ratio"]))


def module(name: str, *arguments: str) -> dict[str, object] | None:
    """A measuring module under the peers' interpreter, which has a CPU onnxruntime."""
    python = str(peers_python()) if peers_python().exists() else sys.executable
    return module_json(python, f"{__package__}.measure.{name}", *arguments)


def count(path: Path) -> Remaining | None:
    """What is left in a file, or None where it is no model."""
    try:
        return remaining(onnx.load(path, load_external_data=False))
    except Exception:
        return None


def reason(cost: Cost) -> str:
    """The last line of what a failed tool said."""
    lines = cost.tail.strip().splitlines()
    return f"exit {cost.code}: {lines[-1][:200] if lines else ''}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--models", nargs="*", default=["*"], help="patterns of names or group/names")
    parser.add_argument("--tools", nargs="*", help="names of tools; all that are installed without it")
    parser.add_argument("--runs", type=int, default=3, help="runs of each tool on each model; the median counts")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of inputs per shape")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of .onnx files")
    parser.add_argument("--json", type=Path, help="write every row here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of drawn tables")
    return parser.parse_args()


def main() -> int:
    """Measure, print the tables, list what went wrong."""
    options = arguments()
    tools = [tool for tool in available() if not options.tools or tool.name in options.tools]
    if not tools:
        print("no tool to measure: python -m benchmarks.setup_peers", file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sources(Path(folder), options.corpus, tuple(options.models)):
            print(f"{source.group}/{source.name}", file=sys.stderr)
            rows += measure(source, tools, options.runs, options.seeds, Path(folder))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    report(rows, options.markdown)
    return 0


def report(rows: Sequence[Row], as_markdown: bool) -> None:
    """Print the three tables and every row that is not right."""
    base = base_tool(rows)
    for table in (totals_table(totals(rows, base), base), models_table(rows), costs_table(rows, base)):
        if as_markdown:
            print(markdown(table))
        else:
            show(table)
    for row in rows:
        if row.why:
            print(f"- {row.model}, {row.tool}: {row.word}, {row.why}")


if __name__ == "__main__":
    sys.exit(main())
