"""A small writer for models that no torch exporter produces: nodes, constants and ports in, a checked model out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from models.ports import Port

Array = NDArray[np.generic]


class Writer:
    """Collects nodes and initializers in order; every method returns the name of the tensor that it made."""

    def __init__(self, seed: int, prefix: str = "") -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._prefix = prefix

    def op(self, kind: str, *inputs: str, name: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        output = name or f"{self._prefix}{kind.lower()}_{len(self.nodes)}"
        node = helper.make_node(kind, list(inputs), [output], name=f"node_{output}", domain=domain, **attributes)
        self.nodes.append(node)
        return output

    def constant(self, value: Array | Sequence[int] | Sequence[float] | float, name: str = "") -> str:
        """Store an initializer: float32 unless the values are integers."""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = name or f"{self._prefix}constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        """Store a weight `[out, in, *kernel]` that keeps the variance of its input."""
        fan_in = float(np.prod(shape[1:]))
        return self.constant(self.rng.normal(0.0, fan_in**-0.5, shape), name)

    def conv(self, x: str, out: int, into: int, kernel: int = 3, *, bias: bool = False, **attributes: Any) -> str:
        """Add a convolution that keeps the image size when the stride is 1."""
        group = attributes.get("group", 1)
        operands = [x, self.weight(out, into // group, kernel, kernel)]
        if bias:
            operands.append(self.constant(self.rng.normal(0.0, 0.1, out)))
        pads = [kernel // 2] * 4
        return self.op("Conv", *operands, kernel_shape=[kernel, kernel], pads=pads, **attributes)

    def statistics(self, channels: int) -> list[str]:
        """Store scale, bias, mean and variance of a BatchNorm, about a fifth of the scales negative."""
        return [self.constant(array) for array in statistics(self.rng, channels)]

    def batch_norm(self, x: str, channels: int, **attributes: Any) -> str:
        """Add an inference BatchNormalization."""
        return self.op("BatchNormalization", x, *self.statistics(channels), epsilon=1e-5, **attributes)

    def graph(self, name: str, inputs: Sequence[ValueInfoProto], output: ValueInfoProto) -> GraphProto:
        """Return the graph; its last node must have produced `output`."""
        return helper.make_graph(self.nodes, name, list(inputs), [output], self.initializers)


def statistics(rng: np.random.Generator, channels: int) -> tuple[Array, Array, Array, Array]:
    """Draw `(scale, bias, mean, variance)` that suit inputs of variance near 1."""
    signs = np.where(rng.random(channels) < 0.2, -1.0, 1.0)
    return (
        signs * rng.uniform(0.5, 1.5, channels),
        rng.normal(0.0, 0.3, channels),
        rng.normal(0.0, 0.3, channels),
        rng.uniform(0.5, 1.5, channels),
    )


def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    """Describe a graph input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def value_of(port: Port) -> ValueInfoProto:
    """Describe a port as a graph input."""
    return value(port.name, port.shape, TensorProto.INT64 if port.indices else TensorProto.FLOAT)


def model(graph: GraphProto, *, opset: int = 17, ir: int = 8, **rest: Any) -> ModelProto:
    """Wrap a graph for one opset and IR version."""
    opsets = rest.pop("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, producer_name="normfold-models", ir_version=ir, opset_imports=opsets, **rest)
