"""Which provider runs which operator, from onnxruntime's own profile of one run."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from benchmarks.measure.session import PROVIDERS, profiled


def placement(model: bytes, provider: str, x: NDArray[Any]) -> tuple[tuple[str, str], ...]:
    """Operator and provider of every node that ran, in the order of execution; inlined functions are several."""
    with tempfile.TemporaryDirectory() as folder:
        session = profiled(model, provider, Path(folder) / "run")
        session.run(None, {"x": x})
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    kernels = [e["args"] for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    return tuple((kernel["op_name"], kernel["provider"]) for kernel in kernels)


def shown(nodes: tuple[tuple[str, str], ...], provider: str) -> str:
    """`3 nodes`, and the operators that ran elsewhere than on the provider that was asked for."""
    strays = Counter(operator for operator, where in nodes if where != PROVIDERS[provider])
    away = ", ".join(f"{operator}×{count}" if count > 1 else operator for operator, count in strays.items())
    return f"{len(nodes)}" + (f"; not on {provider}: {away}" if away else "")
