"""Models with normalisations in the bodies of If, Loop and Scan, and what they compute, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests.model.build import FLOAT, net, node

C, EPSILON = 6, 1e-5
WEIGHTS = {
    "gamma": np.linspace(0.5, 1.5, C).astype(np.float32),
    "beta": np.linspace(-1, 1, C).astype(np.float32),
    "mean": np.linspace(-0.5, 2, C).astype(np.float32),
    "var": np.linspace(0.3, 3, C).astype(np.float32),
}
PARAMETERS = list(WEIGHTS)
# A batch in four has a negative mean.
X = np.random.default_rng(5).normal(1, 1.5, (16, C, 5)).astype(np.float32)
X[8:12] -= 4
LEVEL = np.array([4.0], np.float32)


def norm(x: str, y: str, name: str) -> NodeProto:
    return node("BatchNormalization", [x, *PARAMETERS], [y], name=name)


def body(
    nodes: Sequence[NodeProto],
    outputs: Sequence[str],
    inputs: Sequence[str] = (),
    weights: dict[str, np.ndarray] | None = None,
) -> GraphProto:
    """A subgraph. Numbers of iterations and conditions are scalars, r and r2 matrices, all else is float of any shape."""
    kinds = {"i": TensorProto.INT64, "again": TensorProto.BOOL, "go": TensorProto.BOOL}
    dims = dict.fromkeys(kinds, ()) | dict.fromkeys(("r", "r2"), (None, C))

    def info(name: str) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, kinds.get(name, FLOAT), dims.get(name))

    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    return helper.make_graph(list(nodes), "body", [info(n) for n in inputs], [info(n) for n in outputs], tensors)


def normalised(x: np.ndarray) -> np.ndarray:
    shape = (1, C, *(1,) * (x.ndim - 2))
    gamma, beta, mean, var = (WEIGHTS[name].astype(np.float64).reshape(shape) for name in PARAMETERS)
    return gamma * (x - mean) / np.sqrt(var + EPSILON) + beta


def moments(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, over arrays `[N, C, …]` that may differ in shape."""
    flat = np.concatenate([np.moveaxis(v.astype(np.float64), 1, 0).reshape(C, -1) for v in values], axis=1)
    return flat.mean(1), flat.var(1)


def positive(level: str = "zero") -> list[NodeProto]:
    """Whether the mean of the batch is above a constant."""
    return [node("ReduceMean", ["x"], ["middle"], keepdims=0), node("Greater", ["middle", level], ["flag"])]


def branching(*, opset: int = 17, then: GraphProto | None = None, other: GraphProto | None = None) -> ModelProto:
    then = then or body([node("Add", ["x", "x"], ["twice"]), norm("twice", "t", "then")], ["t"])
    other = other or body([node("Neg", ["x"], ["minus"]), norm("minus", "e", "else")], ["e"])
    nodes = [*positive(), node("If", ["flag"], ["y"], then_branch=then, else_branch=other, name="if")]
    return net(nodes, {"x": ["N", C, None]}, ["y"], {**WEIGHTS, "zero": np.array(0.0, np.float32)}, opset=opset)


def looping(count: int = 3, *, inner: Sequence[NodeProto] = (), opset: int = 17) -> ModelProto:
    """h ← ½·norm(h) + x, `count` times; h is state and scan output at once."""
    step = body(
        [
            *(inner or [norm("h", "n", "inside")]),
            node("Mul", ["n", "half"], ["m"]),
            node("Add", ["m", "x"], ["new"]),
            node("Identity", ["again"], ["go"]),
        ],
        ["go", "new", "new"],
        ["i", "again", "h"],
    )
    nodes = [
        node("Loop", ["count", "", "x"], ["last", "all"], body=step, name="loop"),
        node("ReduceSum", ["all", "front"], ["sum"], keepdims=0) if opset >= 13 else
        node("ReduceSum", ["all"], ["sum"], axes=[0], keepdims=0),
        node("Add", ["last", "sum"], ["y"]),
    ]  # fmt: skip
    weights = {**WEIGHTS, "half": np.float32(0.5), "count": np.array(count, np.int64), "zero": np.float32(0)}
    if opset >= 13:
        weights["front"] = np.array([0])
    return net(nodes, {"x": ["N", C, 5]}, ["y"], weights, opset=opset)


def states(x: np.ndarray, count: int = 3) -> list[np.ndarray]:
    """What stands in front of the norm, iteration after iteration."""
    found = [x.astype(np.float64)]
    for _ in range(count - 1):
        found.append(0.5 * normalised(found[-1]) + x)
    return found


def scanning(*, axis: int = 1, opset: int = 17, inner: Sequence[NodeProto] = (), **attributes: list[int]) -> ModelProto:
    """s ← norm(x_t + s) over an axis of x; every s is put out as well."""
    step = body(
        [
            *(inner or [node("Add", ["x_t", "s"], ["sum"]), norm("sum", "new", "inside")]),
            node("Identity", ["new"], ["o"]),
        ],
        ["new", "o"],
        ["s", "x_t"],
    )
    nodes = [
        node("ReduceMean", ["x"], ["zero_sized"], axes=[axis], keepdims=0),
        node("Sub", ["zero_sized", "zero_sized"], ["start"]),
        node("Scan", ["start", "x"], ["last", "y"], body=step, num_scan_inputs=1, scan_input_axes=[axis], **attributes),
    ]
    return net(nodes, {"x": ["N", None, None]}, ["y"], WEIGHTS, opset=opset)
