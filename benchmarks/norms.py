"""Every spelling of a norm against what normfold makes of it: `python -m benchmarks.norms [--provider cuda] [--threads 2]`.

All variants of a norm run in turns in one process. Ratios are given twice: the median over the turns, and of the fastest
turns, which other work on the machine cannot make faster. Errors are against float64.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.generate.norms import CASES, Case, lowered
from benchmarks.measure.bound import Bound, copy_of
from benchmarks.measure.placement import placement, shown
from benchmarks.measure.session import PROVIDERS, deployed
from benchmarks.table import Table, markdown, show, times
from normfold.model.dtypes import onnx_dtype
from normfold.targets.lower import Options, lower
from normfold.targets.names import Target

WARM_UP, FEWEST = 3, 20
TYPES = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16)}
# The opset of the originals: exporters write the idiom and axes as attributes up to here.
OPSET = 17
# The targets whose operators a provider has kernels for; the last is the provider's own.
RUNNABLE = {"cpu": (Target.PORTABLE, Target.ORT_CPU), "cuda": (Target.PORTABLE, Target.TENSORRT, Target.ORT_CUDA)}


@dataclass(frozen=True)
class Row:
    """One variant of one norm.

    Args:
        norm: which norm.
        variant: the spelling, or `-> target: operator`.
        seconds: median of one inference; None if it does not run, and `nodes` says why.
        ratio: its time / that of what normfold makes of the norm for the provider; median over the turns.
        ratio_of_fastest: the same of the fastest turn of each.
        error: largest difference to float64, as a part of the largest result.
        nodes: how many nodes ran, and which of them not on the provider.
        bytes_per_second: of reading x and writing y once; with a device only.
        of_copy: that, as a part of what a copy on the device reaches.
    """

    norm: str
    variant: str
    seconds: float | None
    ratio: float | None
    ratio_of_fastest: float | None
    error: float | None
    nodes: str
    bytes_per_second: float | None = None
    of_copy: float | None = None


@dataclass(frozen=True, eq=False)
class Setup:
    """How to run: provider, threads, element type, seconds for each norm."""

    provider: str
    threads: int
    dtype: np.dtype
    seconds: float


def variants(case: Case, setup: Setup) -> Iterator[tuple[str, bytes]]:
    """Every spelling, then what each runnable target makes of the norm; the last is the provider's own."""
    for spelling in case.spellings:
        yield spelling, case.model(spelling, setup.dtype)
    kind = onnx_dtype(setup.dtype)
    norm = replace(case.norm, input_type=kind, output_type=kind, parameter_type=kind)
    options = Options(OPSET, setup.threads)
    for target in RUNNABLE[setup.provider]:
        for lowering in lower(norm, target, options).lowerings:
            name = f"-> {target.value}: {lowering.operator}"
            yield name, lowered(case, lowering, OPSET, setup.dtype)
            break


def measure(case: Case, setup: Setup) -> list[Row]:
    """All variants of a norm, in turns."""
    x = case.x(setup.dtype)
    expected = case.expected(x)
    runs: dict[str, Bound] = {}
    rows: list[Row] = []
    for name, model in variants(case, setup):
        try:
            runs[name] = Bound.of(_session(model, setup), x, setup.provider)
            error = float(np.abs(runs[name].result() - expected).max() / np.abs(expected).max())
            nodes = shown(placement(model, setup.provider, x), setup.provider)
        except Exception as why:  # a runtime refuses in many ways, and the reason is part of the table
            runs.pop(name, None)
            rows.append(Row(case.name, name, None, None, None, None, " ".join(str(why).split())[-120:]))
            continue
        rows.append(Row(case.name, name, None, None, None, error, nodes))
    copy = copy_of(x, setup.provider) if setup.provider != "cpu" else None
    return _timed(rows, runs, copy, 2 * x.nbytes, setup.seconds)


def _session(model: bytes, setup: Setup) -> Any:
    # Idle threads of one session would spin on the cores that the next one is measured on.
    entries = {"session.force_spinning_stop": "1"}
    if setup.provider == "cpu":
        return deployed(model, setup.provider, setup.threads, entries)
    try:
        return deployed(model, setup.provider, setup.threads, entries | {"session.disable_cpu_ep_fallback": "1"})
    except Exception:  # a node is on the CPU: the table shows which
        return deployed(model, setup.provider, setup.threads, entries)


def _timed(rows: list[Row], runs: dict[str, Bound], copy: Bound | None, size: int, seconds: float) -> list[Row]:
    """The rows with their times."""
    entrants = list(runs.items()) + ([("copy", copy)] if copy is not None else [])
    taken = race(dict(entrants), seconds)
    best = next(reversed(runs))
    done = []
    for row in rows:
        if row.variant not in taken:
            done.append(row)
            continue
        own = taken[row.variant]
        ratio = statistics.median(a / b for a, b in zip(own, taken[best], strict=True))
        timed = replace(row, seconds=statistics.median(own), ratio=ratio, ratio_of_fastest=min(own) / min(taken[best]))
        if copy is not None:
            of_copy = statistics.median(b / a for a, b in zip(own, taken["copy"], strict=True))
            timed = replace(timed, bytes_per_second=size / statistics.median(own), of_copy=of_copy)
        done.append(timed)
    return done


def race(entrants: dict[str, Bound], seconds: float) -> dict[str, list[float]]:
    """Everyone's times, in turns, each turn in another order, so that a slow moment of the machine hits all of them."""
    names = list(entrants)
    for _ in range(WARM_UP):
        for name in names:
            entrants[name].seconds()
    taken: dict[str, list[float]] = {name: [] for name in names}
    end, turn = time.perf_counter() + seconds, 0
    while turn < FEWEST or time.perf_counter() < end:
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            entrants[name].seconds()  # in a network the layer before has just written x: its caches are warm
            taken[name].append(entrants[name].seconds())
        turn += 1
    return taken


def norms_table(rows: Sequence[Row], title: str) -> Table:
    """One row for every variant; the norm is named once."""
    device = any(row.of_copy is not None for row in rows)
    header = (
        "norm",
        "variant",
        "ms",
        "time / normfold's",
        "of the fastest",
        "error",
        "nodes",
        *(("GB/s", "of a copy") if device else ()),
    )
    body, last = [], ""
    for row in rows:
        cells = (
            "" if row.norm == last else row.norm,
            row.variant,
            "–" if row.seconds is None else f"{row.seconds * 1e3:.3f}",
            times(row.ratio),
            times(row.ratio_of_fastest),
            "–" if row.error is None else f"{row.error:.1e}",
            row.nodes,
        )
        rate = "–" if row.bytes_per_second is None else f"{row.bytes_per_second / 1e9:.0f}"
        part = "–" if row.of_copy is None else f"{row.of_copy:.0%}"
        body.append((*cells, *((rate, part) if device else ())))
        last = row.norm
    return Table(title, header, tuple(body))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.norms", description=__doc__.splitlines()[0])
    parser.add_argument("--provider", choices=list(PROVIDERS), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads inside an operator, on the CPU")
    parser.add_argument("--type", choices=list(TYPES), default="float32", help="element type of x, y and parameters")
    parser.add_argument("--norm", help="only norms whose name contains this")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each norm")
    parser.add_argument("--json", type=Path, help="write every row here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a drawn table")
    return parser.parse_args()


def main() -> int:
    """Measure, and print the table; exit 1 where a variant that normfold chose does not run on the provider."""
    options = arguments()
    if PROVIDERS[options.provider] not in ort.get_available_providers():
        print(f"this onnxruntime has no {PROVIDERS[options.provider]}", file=sys.stderr)
        return 2
    setup = Setup(options.provider, options.threads, TYPES[options.type], options.seconds)
    rows: list[Row] = []
    for case in CASES:
        if options.norm is None or options.norm in case.name:
            print(case.name, file=sys.stderr)
            rows += measure(case, setup)
    where = f"{options.provider}, {options.threads} thread{'s' if options.threads > 1 else ''}, {options.type}"
    table = norms_table(rows, f"onnxruntime {ort.__version__}, {where}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if options.markdown:
        print(markdown(table))
    else:
        show(table)
    own = RUNNABLE[options.provider][-1].value
    return int(any(row.seconds is None or "not on" in row.nodes for row in rows if f"-> {own}:" in row.variant))


if __name__ == "__main__":
    sys.exit(main())
