"""Models built in code, and what onnxruntime makes of them with its own optimisations off."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes
from normfold.model.wire import encode_varint, header

FLOAT = TensorProto.FLOAT


def net(nodes, inputs, outputs, weights=None, *, opset=17, ir=8, elem=FLOAT, functions=(), domains=()):
    """A model; inputs are {name: dims}, or infos; outputs are names; weights are {name: array} or TensorProtos."""
    tensors = [
        item if isinstance(item, TensorProto) else numpy_helper.from_array(np.asarray(item), name)
        for name, item in (weights or {}).items()
    ]
    infos = (
        [helper.make_tensor_value_info(n, elem, d) for n, d in inputs.items()] if isinstance(inputs, dict) else inputs
    )
    ends = [helper.make_tensor_value_info(o, elem, None) if isinstance(o, str) else o for o in outputs]
    graph = helper.make_graph(list(nodes), "g", infos, ends, tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, name=attributes.pop("name", None), **attributes)


def options():
    result = ort.SessionOptions()
    result.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    result.log_severity_level = 4
    result.intra_op_num_threads = result.inter_op_num_threads = 1
    return result


def run(model, feeds, outputs=None):
    data = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    return ort.InferenceSession(data, options(), providers=["CPUExecutionProvider"]).run(outputs, feeds)


def actual(model, feeds, names):
    """The values of named tensors; the model's outputs become exactly these."""
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, run(probe, feeds, list(names)), strict=True))


def viewed(model):
    """(Model, Constants, Shapes) of a ModelProto or path."""
    loaded = load(model)
    constants = Constants()
    return loaded, constants, Shapes(constants)


def conv_bn(name, before, after, channels=4, *, seed=0, bias=False):
    """Nodes and weights of a Conv and the BatchNormalization behind it."""
    rng = np.random.default_rng(seed)
    weights = {
        f"{name}.w": rng.normal(size=(channels, channels, 3, 3)).astype(np.float32),
        f"{name}.scale": rng.uniform(0.5, 1.5, channels).astype(np.float32),
        f"{name}.shift": rng.normal(size=channels).astype(np.float32),
        f"{name}.mean": rng.normal(size=channels).astype(np.float32),
        f"{name}.var": rng.uniform(0.5, 2, channels).astype(np.float32),
    }
    if bias:
        weights[f"{name}.b"] = rng.normal(size=channels).astype(np.float32)
    inputs = [before, f"{name}.w", *([f"{name}.b"] if bias else [])]
    return [
        node("Conv", inputs, [f"{name}.conv"], pads=[1, 1, 1, 1], name=f"{name}.conv"),
        node(
            "BatchNormalization",
            [f"{name}.conv", *(f"{name}.{part}" for part in ("scale", "shift", "mean", "var"))],
            [after],
            name=f"{name}.bn",
        ),
    ], weights


def field(number, payload):
    """A length-delimited field, or a varint for an int."""
    if isinstance(payload, int):
        return encode_varint(number << 3) + encode_varint(payload)
    payload = payload.SerializeToString() if hasattr(payload, "SerializeToString") else payload
    return header(number, len(payload)) + payload


def graph_attribute(name, graph):
    return AttributeProto(name=name, type=AttributeProto.GRAPH, g=graph)
