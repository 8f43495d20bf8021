"""A model that chooses between two branches, each with a convolution and a BatchNorm inside the If body.

Folding in a body means creating initializers in that body, and respecting what it captures from outside: here one
weight of the outer graph is read by both bodies, so a fold into it in one branch would change the other.
"""

from __future__ import annotations

from onnx import GraphProto, ModelProto, TensorProto

from models.ports import IMAGE
from models.writing import Writer, model, value, value_of

CHANNELS = 8


def if_body(seed: int = 0) -> ModelProto:
    """Write the model at opset 16: a stem that folds, then the If."""
    w = Writer(seed)
    stem = w.op("Relu", w.batch_norm(w.conv(IMAGE.name, CHANNELS, 3), CHANNELS), name="stem")
    shared = w.weight(CHANNELS, CHANNELS, 3, 3, name="shared_weight")
    branches = {
        "then_branch": _shared_branch(stem, shared, seed + 1),
        "else_branch": _own_branch(stem, shared, seed + 2),
    }
    w.op("If", "deep", name="chosen", **branches)
    w.op("Relu", "chosen", name="y")
    inputs = [value_of(IMAGE), value("deep", (), TensorProto.BOOL)]
    return model(w.graph("if_body", inputs, value("y", ("batch", CHANNELS, "height", "width"))), opset=16)


def _shared_branch(stem: str, weight: str, seed: int) -> GraphProto:
    w = Writer(seed, "then_")
    w.batch_norm(w.op("Conv", stem, weight, pads=[1, 1, 1, 1]), CHANNELS, name="then_y")
    return _body(w, "then")


def _own_branch(stem: str, weight: str, seed: int) -> GraphProto:
    w = Writer(seed, "else_")
    hidden = w.op("Relu", w.batch_norm(w.conv(stem, CHANNELS, CHANNELS, kernel=1), CHANNELS))
    w.batch_norm(w.op("Conv", hidden, weight, pads=[1, 1, 1, 1]), CHANNELS, name="else_y")
    return _body(w, "else")


def _body(w: Writer, branch: str) -> GraphProto:
    return w.graph(f"{branch}_body", [], value(f"{branch}_y", ("batch", CHANNELS, "height", "width")))
