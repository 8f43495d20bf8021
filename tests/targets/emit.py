"""A lowering as a model. Its inputs are float64 and are cast first, so that every element type can be fed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from normfold.model.dtypes import rounded
from normfold.targets.lowering import Constant, Given, Lowering, X, Y
from tests.targets.cases import Case

GIVEN, NEW = "graph/", "new/"


def model(lowering: Lowering, case: Case, opset: int | None = None) -> ModelProto:
    """The lowering on its own; names of the graph and placeholders cannot meet."""
    norm = case.norm
    types = dict.fromkeys((norm.scale, norm.bias), norm.parameter_type)
    feeds = {GIVEN + name: types.get(name, norm.input_type) for name in case.given}
    reads_x = not (lowering.takes_residual or lowering.takes_embedding)
    feeds |= {NEW + X: norm.input_type} if reads_x else {}
    nodes = [helper.make_node("Cast", [f"{name}/wide"], [name], to=kind) for name, kind in feeds.items()]
    nodes += [_node(lowering, index) for index in range(len(lowering.nodes))]
    nodes.append(helper.make_node("Cast", [NEW + Y], ["out"], to=TensorProto.DOUBLE))
    inputs = [helper.make_tensor_value_info(f"{name}/wide", TensorProto.DOUBLE, None) for name in feeds]
    outputs = [helper.make_tensor_value_info("out", TensorProto.DOUBLE, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [_tensor(c) for c in lowering.constants])
    domains = {"": max(lowering.opset, case.options.opset) if opset is None else opset, **lowering.domains}
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def bare(lowering: Lowering, case: Case, opset: int) -> ModelProto:
    """The same without the Casts for feeding, for onnx.checker and shape inference with strict types."""
    norm = case.norm
    made = model(lowering, case, opset)
    del made.graph.node[-1]
    feeding = [node for node in made.graph.node if node.input and node.input[0].endswith("/wide")]
    for node in feeding:
        made.graph.node.remove(node)
    for value in made.graph.input:
        value.name = value.name.removesuffix("/wide")
        node = next(node for node in feeding if node.output[0] == value.name)
        shape = case.given[value.name.removeprefix(GIVEN)].shape if value.name.startswith(GIVEN) else case.shape
        value.CopyFrom(helper.make_tensor_value_info(value.name, node.attribute[0].i, shape))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info(NEW + Y, norm.output_type, case.shape))
    return made


def feeds_of(made: ModelProto, case: Case) -> Mapping[str, np.ndarray]:
    """The data for the inputs of `model`."""
    names = [value.name for value in made.graph.input]
    whole = {NEW + X: case.x, **{GIVEN + name: value for name, value in case.given.items()}}
    return {name: whole[name.removesuffix("/wide")].astype(np.float64) for name in names}


def _node(lowering: Lowering, index: int) -> NodeProto:
    op = lowering.nodes[index]
    inputs = [name and (GIVEN if isinstance(name, Given) else NEW) + name for name in op.inputs]
    outputs = [name and NEW + name for name in op.outputs]
    return helper.make_node(op.op_type, inputs, outputs, f"{index}", domain=op.domain, **op.attributes)


def _tensor(constant: Constant) -> TensorProto:
    values = np.asarray(constant.values)
    if values.dtype.kind != "f":
        return numpy_helper.from_array(values.astype(np.int64), NEW + constant.name)
    stored = rounded(np.ascontiguousarray(values), constant.data_type)
    tensor = onnx.TensorProto(name=NEW + constant.name, data_type=constant.data_type, dims=values.shape)
    tensor.raw_data = stored.tobytes()
    return tensor
