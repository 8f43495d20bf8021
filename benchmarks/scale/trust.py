"""The cases of very large models: forms of graphs, files beyond 2 GiB, data beyond 10 GB, very many tensors."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.generate.large import write_external, write_inline, write_many
from benchmarks.generate.shapes import FORMS
from benchmarks.measure.process import Cost, run
from benchmarks.scale.goal import Figure, growth
from benchmarks.scale.runs import TIMEOUT
from benchmarks.tools import normfold_command, normfold_works

MB = 1e6
SIZES = (12_500, 25_000, 50_000, 100_000)
_LAYERS_OF_10_GB = 180


def forms_case(work: Path, runs: int) -> list[Figure]:
    """100,000 nodes in every form: time may at most grow 2.3 times with twice the nodes."""
    figures: list[Figure] = []
    for name, build in FORMS.items():
        path, seconds = work / f"{name}.onnx", []
        for nodes in SIZES:
            path.write_bytes(build(nodes).SerializeToString())
            costs = [_once(path, path.with_name("out.onnx")) for _ in range(runs)]
            seconds += [min(cost.wall for cost in costs)] if all(cost.ok for cost in costs) else []
        path.unlink()
        whole = len(seconds) == len(SIZES)
        figures += [
            Figure("forms", f"{name}, {SIZES[-1]} nodes", seconds[-1] if whole else None),
            Figure("forms", f"{name}, growth per doubling", growth(seconds) if whole else None, 2.3, "×", _gone()),
        ]
    return figures


def inline_case(work: Path, runs: int) -> list[Figure]:
    """One file of 2.7 GB: no message that protobuf could hold."""
    path = write_inline(work)
    cost = _once(path, work / "out.onnx")
    return [
        Figure("inline", "size of the file", path.stat().st_size / MB, unit="MB"),
        *_spent("inline", cost, 700.0),
    ]


def tensors_case(work: Path, runs: int) -> list[Figure]:
    """70,000 external tensors in 700 files under `ulimit -n 1024`."""
    path = write_many(work)
    (work / "out").mkdir()
    return _spent("tensors", _once(path, work / "out" / "out.onnx", files=1024), 700.0)


def huge_case(work: Path, runs: int) -> list[Figure]:
    """More than 10 GB of external weights, written in full and as an overlay (about 25 GB of disk)."""
    path = write_external(work, layers=_LAYERS_OF_10_GB)
    full = _once(path, work / "full.onnx")
    for data in work.glob("full*"):
        data.unlink()
    overlay = _once(path, work / "overlay.onnx", "--overlay")
    written = sum(item.stat().st_size for item in work.glob("overlay*"))
    return [
        Figure("huge", "size of the data", path.with_name("model.onnx.data").stat().st_size / MB, unit="MB"),
        *_spent("huge", full, 700.0),
        *_spent("huge, overlay", overlay, 700.0),
        Figure("huge, overlay", "written", written / MB, unit="MB"),
    ]


def _once(source: Path, destination: Path, *options: str, files: int | None = None) -> Cost:
    command = [*normfold_command(source, destination), *options]
    if files is not None:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    cost = run(command, TIMEOUT)
    if not cost.ok:
        print(f"normfold failed on {source.name}: {cost.tail[-300:]}", file=sys.stderr)
    return cost


def _spent(case: str, cost: Cost, most: float) -> list[Figure]:
    return [
        Figure(case, "wall", cost.wall if cost.ok else None),
        Figure(case, "peak", cost.peak / MB if cost.ok else None, most, "MB", _gone()),
    ]


def _gone() -> bool:
    return not normfold_works()


TRUST_CASES = {"forms": forms_case, "inline": inline_case, "tensors": tensors_case, "huge": huge_case}
