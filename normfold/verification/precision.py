"""The same region in another floating type: stored constants widen exactly, nothing else changes.

Used where no runtime kernel exists (bfloat16, float64 Conv) and to evaluate a definition in float64.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto

from .protos import FLOATS


def recast(model: onnx.ModelProto, elem: int, sources: Collection[int] = FLOATS) -> onnx.ModelProto:
    """Return a copy of `model` in which every floating type of `sources` is `elem`.

    Initializers, constants, Cast targets, inputs and outputs change; the order of operations does not.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    _recast_graph(copy.graph, elem, set(sources) - {elem})
    return copy


def _recast_graph(graph: onnx.GraphProto, elem: int, sources: set[int]) -> None:
    for tensor in graph.initializer:
        _recast_tensor(tensor, elem, sources)
    for info in [*graph.input, *graph.output, *graph.value_info]:
        if info.type.HasField("tensor_type") and info.type.tensor_type.elem_type in sources:
            info.type.tensor_type.elem_type = elem
    for node in graph.node:
        _widen_scalars(node, elem)
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i in sources:
                attribute.i = elem
            if attribute.HasField("t"):
                _recast_tensor(attribute.t, elem, sources)
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _recast_graph(inner, elem, sources)


def _recast_tensor(tensor: TensorProto, elem: int, sources: set[int]) -> None:
    if tensor.data_type in sources:
        values = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(elem))
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _widen_scalars(node: onnx.NodeProto, elem: int) -> None:
    """`Constant` with value_float(s) makes float32; say it as a tensor of `elem` instead."""
    if node.op_type != "Constant" or node.attribute[0].name not in ("value_float", "value_floats"):
        return
    value = onnx.helper.get_attribute_value(node.attribute[0])
    array = np.asarray(value, np.float32).astype(onnx.helper.tensor_dtype_to_np_dtype(elem))
    node.attribute[0].CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(array)))
