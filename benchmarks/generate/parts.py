"""Pieces that every generated model is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT
OPSET, IR_VERSION = 17, 8
Dims = Sequence[int | str]


class Sheet:
    """Collects nodes and weights of one graph, naming them as it goes.

    Args:
        seed: of every weight.
    """

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """Append a node and return the name of its output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(self, array: NDArray[np.generic]) -> str:
        """Append an initializer and return its name."""
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        """A weight that keeps the variance of what it multiplies (fan-in: all axes but the first)."""
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return self.constant(self.rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan_in)))

    def conv(self, x: str, c_in: int, c_out: int, kernel: int = 3, **attributes: object) -> str:
        """A Conv without bias; `same` padding unless `pads` says otherwise."""
        attributes.setdefault("pads", [kernel // 2] * 4)
        group = attributes.get("group", 1)
        return self.add("Conv", x, self.weight(c_out, c_in // int(str(group)), kernel, kernel), **attributes)

    def norm(self, x: str, channels: int) -> str:
        """A BatchNormalization with statistics that are neither 0 nor 1."""
        low = (0.5, -0.5, -0.5, 0.5)
        rows = [self.rng.uniform(start, start + 1, channels).astype(np.float32) for start in low]
        return self.add("BatchNormalization", x, *map(self.constant, rows), epsilon=1e-5)

    def model(self, shape: Dims, outputs: dict[str, Dims]) -> onnx.ModelProto:
        """Close the graph over the input `x` of `shape`."""
        ends = [helper.make_tensor_value_info(name, FLOAT, list(dims)) for name, dims in outputs.items()]
        start = [helper.make_tensor_value_info("x", FLOAT, list(shape))]
        graph = helper.make_graph(self.nodes, "generated", start, ends, self.weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="benchmarks"
        )
