"""An old model: IR version 3, opset 8, every initializer listed as a graph input too.

In IR 3 all initializers *had* to be inputs, so the listing means nothing; from IR 4 on it means that the caller may
override the value, and folding it would be wrong. Both are here: the same graph as IR 3, and as IR 8 with only the
BatchNorm's mean listed. Tools that drop such inputs on load change the interface without a word.
"""

from __future__ import annotations

from onnx import ModelProto, ValueInfoProto

from models.ports import IMAGE
from models.writing import Writer, model, value, value_of


def ir3_inputs(seed: int = 0) -> ModelProto:
    """Write it as IR 3 with all initializers listed as inputs."""
    w = _written(seed)
    return model(w.graph("ir3_inputs", [value_of(IMAGE), *_listed(w)], _output()), opset=8, ir=3)


def overridable_mean(seed: int = 0) -> ModelProto:
    """Write it as IR 8 with the mean of the second norm overridable by the caller."""
    w = _written(seed)
    mean = [n for n in w.nodes if n.op_type == "BatchNormalization"][1].input[3]
    overridable = [item for item in _listed(w) if item.name == mean]
    return model(w.graph("overridable_mean", [value_of(IMAGE), *overridable], _output()))


def _written(seed: int) -> Writer:
    w = Writer(seed)
    x = w.op("Relu", w.batch_norm(w.conv(IMAGE.name, 8, 3), 8))
    x = w.op("Relu", w.batch_norm(w.conv(x, 8, 8, group=2, bias=True), 8))
    w.conv(x, 4, 8, kernel=1, name="y")
    return w


def _listed(w: Writer) -> list[ValueInfoProto]:
    return [value(tensor.name, tensor.dims, tensor.data_type) for tensor in w.initializers]


def _output() -> ValueInfoProto:
    return value("y", ("batch", 4, "height", "width"))
