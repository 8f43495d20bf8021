"""What there is to know about a region that normalises before it is compared: its epsilons, and whether it is one at all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from .definitions import DEFINITIONS, MICROSOFT, key
from .protos import attributes, constant_values, walk

_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "GlobalAveragePool")
_ROOTS = ("Sqrt", "Pow", "ReduceL2")
_GUARDS = ("Add", "Sum", "Max")
_LARGEST_EPSILON = 0.1
_COSTLY = ("Conv", "ConvTranspose", "NhwcConv", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def normalises(model: onnx.ModelProto) -> bool:
    """Whether `model` divides by a spread of its own values: a norm operator, or a reduction and a root."""
    nodes = list(walk(model.graph))
    kinds = {node.op_type for node in nodes}
    if any(key(node) in DEFINITIONS and node.op_type != "GlobalAveragePool" for node in nodes):
        return True
    return bool(kinds.intersection(_REDUCTIONS)) and bool(kinds.intersection((*_ROOTS, "BatchNormalization")))


def is_lossy(model: onnx.ModelProto) -> bool:
    """Whether a kernel that runs `model` is known to compute E[x²] − E[x]²."""
    return any(key(node) == (MICROSOFT, "SkipLayerNormalization") for node in walk(model.graph))


def is_cheap(model: onnx.ModelProto) -> bool:
    """Whether numpy evaluates `model` about as fast as a runtime does."""
    return not any(node.op_type in _COSTLY for node in walk(model.graph))


def epsilons(model: onnx.ModelProto) -> tuple[float, ...]:
    """What `model` adds to a variance, ascending: epsilons of its norms, and small scalars of its sums; () if nothing."""
    return tuple(sorted({value for value in _small_numbers(model.graph) if 0 < value <= _LARGEST_EPSILON}))


def _small_numbers(graph: onnx.GraphProto) -> Iterator[float]:
    scalars = {tensor.name: tensor for tensor in graph.initializer if int(np.prod(tensor.dims, dtype=np.int64)) == 1}
    made = {node.output[0]: node for node in graph.node if node.op_type in ("Constant", "Cast")}
    for node in graph.node:
        found = attributes(node)
        if "epsilon" in found:
            yield float(found["epsilon"])
        for name in node.input if node.op_type in _GUARDS else ():
            while name in made and made[name].op_type == "Cast":
                name = made[name].input[0]
            values = constant_values(made[name]) if name in made else None
            if name in scalars:
                values = numpy_helper.to_array(scalars[name])
            if values is not None and values.size == 1 and values.dtype.kind not in "OSU":
                yield float(values.ravel()[0])
