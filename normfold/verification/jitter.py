"""Weights moved by one unit in the last place: the noise floor of a model. Runs in the child process.

Exact zeros stay zero (a pruned weight is not a rounded one). Weights in the file are rewritten in the model's proto;
weights in external files are replaced through the session options, so that no second data file is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Operator: first input slot whose constants are settings.
_SETTINGS = {
    "Pow": 1, "Resize": 1, "Upsample": 1, "Range": 0, "Cast": 0, "Floor": 0, "Ceil": 0, "Round": 0, "Mod": 0,
    "OneHot": 1, "Clip": 1, "Pad": 2, "Equal": 0, "Less": 0, "Greater": 0, "LessOrEqual": 0, "GreaterOrEqual": 0,
    "Dropout": 1, "NonMaxSuppression": 2, "QuantizeLinear": 1, "DequantizeLinear": 1,
}  # fmt: skip
_DOUBLE = 11
_FLOATS = {1: 4, 10: 2, _DOUBLE: 8}  # bytes of FLOAT, FLOAT16, DOUBLE of onnx.TensorProto


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
    fixed = _settings(model.graph)
    for name, tensor in [(t.name, t) for t in model.graph.initializer] if by_name else _tensors(model.graph):
        if tensor.data_type not in _FLOATS or name in fixed:
            continue
        count = int(np.prod(tensor.dims, dtype=np.int64))
        total += count
        if count * _FLOATS[tensor.data_type] > budget:
            continue
        budget, moved = budget - count * _FLOATS[tensor.data_type], moved + count
        stored = onnx.numpy_helper.to_array(tensor, base)
        if stored.size == 1 and float(stored.reshape(-1)[0]).is_integer():
            continue  # a count, an exponent, a bound: exact in every precision, so no rounding ever moves it
        values = jitter(stored, rng)
        if by_name:
            keep.append(_replace(options, tensor.name, values))
        else:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    facts = {"moved": moved, "total": total}
    if not by_name:
        return model.SerializeToString(), facts, keep
    return (Path(job["model"]).read_bytes() if job["data_dir"] else job["model"]), facts, keep


def _settings(graph: Any) -> set[str]:
    """Names of constants that are settings rather than weights: a last place decides what they mean.

    An exponent of 2 moved by one ulp makes NaN of every negative number, a scale of 2 another image size.
    """
    found: set[str] = set()
    for node in graph.node:
        if node.op_type in _SETTINGS and not _widens(node):
            found.update(node.input[_SETTINGS[node.op_type] :])
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                found |= _settings(inner)
    return found


def _widens(node: Any) -> bool:
    """Whether a Cast only widens to float64, as verification copies do with weights."""
    return node.op_type == "Cast" and any(a.name == "to" and a.i == _DOUBLE for a in node.attribute)


def _outside(tensor: Any) -> bool:
    return bool(tensor.data_location == 1)  # TensorProto.EXTERNAL


def _replace(options: Any, name: str, values: Any) -> Any:
    import onnxruntime as ort

    value = ort.OrtValue.ortvalue_from_numpy(values)
    options.add_initializer(name, value)
    return value


def _tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """Yield every floating weight with its name: initializers and Constant nodes, subgraphs included."""
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS:
            yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type in _FLOATS:
                yield node.output[0], attribute.t
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(inner)
