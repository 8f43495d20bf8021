"""Types of the values inside a model, from the types of its inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from normfold.errors import InputError
from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes

from .definitions import MICROSOFT, stand_ins
from .native import infer_shapes
from .protos import TensorType, free_inputs, tensor_type

_BIG = 64  # elements: larger initializers cannot be shapes, so shape inference does not need their values


def infer_types(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], *, strict: bool = False
) -> dict[str, TensorType]:
    """Return the types of all values of `model` when its inputs have `shapes`; what cannot be inferred is left out.

    Norm operators that the standard does not know count as what has their types. Behind other operators of onnxruntime, where
    inference by the standard ends, the rules of the planner go on.

    Raises:
        WorkerError: the child process crashed, timed out or ran out of memory over it.
    """
    elems = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    skeleton.graph.name = "types"
    skeleton.graph.node.extend(plain for node in model.graph.node for plain in stand_ins(node, elems))
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= _BIG and tensor.data_location != TensorProto.EXTERNAL:
            skeleton.graph.initializer.append(tensor)
        else:
            skeleton.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for info in free_inputs(model.graph):
        found = tensor_type(info)
        if found and info.name in shapes:
            info = onnx.helper.make_tensor_value_info(info.name, found.elem, shapes[info.name])
        skeleton.graph.input.append(info)
    inferred = infer_shapes(skeleton, strict=strict)
    graph = skeleton.graph if inferred is None else inferred.graph
    types = {tensor.name: TensorType(tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    for info in [*graph.input, *graph.value_info]:
        if found := tensor_type(info):
            types[info.name] = found
    if any(node.domain == MICROSOFT and _is_open(node, types) for node in skeleton.graph.node):
        types |= _derived(skeleton, types)
    return types


def _is_open(node: onnx.NodeProto, types: Mapping[str, TensorType]) -> bool:
    return any(name and name not in types for name in node.output)


def _derived(skeleton: onnx.ModelProto, known: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """What the rules of the planner say about values of the main graph that nothing is known about."""
    try:
        graph = load(skeleton).graph
    except InputError:
        return {}
    shapes = Shapes(Constants())
    found: dict[str, TensorType] = {}
    for name, value in graph.values.items():
        elem = None if name in known else shapes.data_type(value)
        if elem is not None:
            dims = shapes.dims(value)
            found[name] = TensorType(elem, None if dims is None else tuple(dims))
    return found
