"""Weights moved by one unit in the last place: the noise floor of a model. Runs in the child process.

Exact zeros stay zero (a pruned weight is not a rounded one). Weights in the file are rewritten in the model's proto;
weights in external files are replaced through the session options, so that no second data file is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_FLOATS = {1: 4, 10: 2, 11: 8}  # bytes of FLOAT, FLOAT16, DOUBLE of onnx.TensorProto


def jitter(values: Any, rng: np.random.Generator) -> Any:
    """Return floating `values` with every nonzero element moved ±1 ulp."""
    sign = np.where(rng.integers(0, 2, values.shape, dtype=np.int8) == 1, np.inf, -np.inf).astype(values.dtype)
    with np.errstate(all="ignore"):
        moved = np.nextafter(values, sign)
    keep = (values == 0) | ~np.isfinite(values) | ~np.isfinite(moved)
    return np.where(keep, values, moved)


def jittered_model(job: dict[str, Any], options: Any) -> tuple[str | bytes, dict[str, int], list[Any]]:
    """Return the model of `job` with jittered weights (a path or bytes), what moved, and what must stay alive.

    At most `job["jitter"]["budget"]` bytes of weights are moved; the facts count moved and all weights.
    """
    import onnx

    model = onnx.load(job["model"], load_external_data=False)
    base = job["data_dir"] or str(Path(job["model"]).parent)
    rng = np.random.default_rng(job["jitter"]["seed"])
    by_name = any(_outside(tensor) for tensor in model.graph.initializer)
    budget, moved, total = int(job["jitter"]["budget"]), 0, 0
    keep = []
    for tensor in model.graph.initializer if by_name else _tensors(model.graph):
        if tensor.data_type not in _FLOATS:
            continue
        count = int(np.prod(tensor.dims, dtype=np.int64))
        total += count
        if count * _FLOATS[tensor.data_type] > budget:
            continue
        budget, moved = budget - count * _FLOATS[tensor.data_type], moved + count
        values = jitter(onnx.numpy_helper.to_array(tensor, base), rng)
        if by_name:
            keep.append(_replace(options, tensor.name, values))
        else:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    facts = {"moved": moved, "total": total}
    if not by_name:
        return model.SerializeToString(), facts, keep
    return (Path(job["model"]).read_bytes() if job["data_dir"] else job["model"]), facts, keep


def _outside(tensor: Any) -> bool:
    return bool(tensor.data_location == 1)  # TensorProto.EXTERNAL


def _replace(options: Any, name: str, values: Any) -> Any:
    import onnxruntime as ort

    value = ort.OrtValue.ortvalue_from_numpy(values)
    options.add_initializer(name, value)
    return value


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every floating weight: initializers and Constant nodes, subgraphs included."""
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS:
            yield tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type in _FLOATS:
                yield attribute.t
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(inner)
