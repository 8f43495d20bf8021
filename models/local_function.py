"""A model whose Conv-BN-ReLU is a model-local function, called three times with different weights.

Inside the function the parameters are formal inputs, not constants: nothing can be folded there. At the call sites
they are initializers, but the caller sees one opaque node. The tool must inline the calls and fold each with its own
weights; it must not take the function's name for an operator that it knows.
"""

from __future__ import annotations

from onnx import FunctionProto, ModelProto, helper

from models.ports import IMAGE
from models.writing import Writer, model, value, value_of

DOMAIN = "models.blocks"
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]


def local_function(seed: int = 0) -> ModelProto:
    """Write the model at opset 17, with one BatchNorm outside the function as well."""
    w = Writer(seed)
    x = _call(w, _call(w, _call(w, IMAGE.name, 8, 3), 8, 8), 12, 8)
    w.batch_norm(w.conv(x, 6, 12, kernel=1), 6, name="y")
    graph = w.graph("local_function", [value_of(IMAGE)], value("y", ("batch", 6, "height", "width")))
    return model(graph, opset_imports=OPSETS, functions=[_conv_bn_relu()])


def _call(w: Writer, x: str, out: int, into: int) -> str:
    return w.op("ConvBnRelu", x, w.weight(out, into, 3, 3), *w.statistics(out), domain=DOMAIN)


def _conv_bn_relu() -> FunctionProto:
    formal = ["x", "weight", "scale", "bias", "mean", "variance"]
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["conv", *formal[2:]], ["norm"], epsilon=1e-5),
        helper.make_node("Relu", ["norm"], ["y"]),
    ]
    return helper.make_function(DOMAIN, "ConvBnRelu", formal, ["y"], nodes, OPSETS[:1])
