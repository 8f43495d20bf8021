"""A model's own noise: every floating weight moved by one unit in the last place, up or down at random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.measure.count import subgraphs
from benchmarks.measure.feeds import Feeds

FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
SHAPING_OPS = frozenset({"Resize", "Upsample", "Range", "Pow"})
SOURCES = frozenset({"Shape", "Size"})


def jitter_weights(model: onnx.ModelProto, seed: int) -> tuple[onnx.ModelProto, int]:
    """A copy of `model` with its weights jittered, and how many tensors moved.

    Scalars and operands of ops that turn values into shapes or exponents stay: there an ulp is not noise.
    """
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    rng = np.random.default_rng(seed)
    count = 0
    for tensor in _weights(moved.graph):
        tensor.CopyFrom(numpy_helper.from_array(nudge(numpy_helper.to_array(tensor), rng), tensor.name))
        count += 1
    return moved, count


def jitter_feeds(feeds: Feeds, seed: int) -> Feeds:
    """The same for inputs, used where a model has no floating weights."""
    rng = np.random.default_rng(seed)
    return {name: nudge(array, rng) if array.dtype.kind == "f" else array for name, array in feeds.items()}


def nudge(array: NDArray[np.generic], rng: np.random.Generator) -> NDArray[np.generic]:
    """Each element to its upper or lower neighbour; exact zeros stay."""
    away = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    moved: NDArray[np.generic] = np.where(array == 0, array, np.nextafter(array, away))  # type: ignore[call-overload]
    return moved.astype(array.dtype)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    fixed = _shaping(graph)
    tensors = [tensor for tensor in graph.initializer if tensor.name not in fixed]
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in fixed:
            tensors += [attribute.t for attribute in node.attribute if attribute.name == "value"]
        for inner in subgraphs(node):
            yield from _weights(inner)
    yield from (t for t in tensors if t.data_type in FLOATS and numpy_helper.to_array(t).size > 1)


def _shaping(graph: onnx.GraphProto) -> set[str]:
    """Tensors that end in an operand of a shaping op, followed backward as far as the shapes of others."""
    makers = {name: node for node in graph.node for name in node.output}
    shaping = [node for node in graph.node if node.op_type in SHAPING_OPS]
    queue = [name for node in shaping for name in node.input[node.op_type != "Range" :]]
    found: set[str] = set()
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            maker = makers.get(name)
            queue += maker.input if maker and maker.op_type not in SOURCES else []
    return found
