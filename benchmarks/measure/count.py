"""What a tool left behind: BatchNormalizations and per-channel affine nodes, in every graph of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import onnx

AFFINE_OPS = frozenset({"Mul", "Add", "Sub", "Div"})
INTEGER_OPS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Remaining:
    """Nodes that a perfect folder would have removed, and all nodes for comparison."""

    norms: int
    affines: int
    nodes: int


@dataclass(frozen=True)
class Scope:
    """What a node can see: shapes of constants, and the results of MatMuls with a constant operand."""

    constants: Mapping[str, Shape]
    products: Set[str]


def remaining(model: onnx.ModelProto) -> Remaining:
    """Count over the main graph, subgraphs and local functions."""
    norms = affines = nodes = 0
    for node, scope in _walk_model(model):
        nodes += node.op_type != "Constant"
        norms += node.op_type == "BatchNormalization"
        affines += _is_affine(node, scope)
    return Remaining(norms, affines, nodes)


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether any node rounds to integers on purpose."""
    return any("QuantizeLinear" in node.op_type or node.op_type in INTEGER_OPS for node, _ in _walk_model(model))


def is_per_channel(shape: Shape) -> bool:
    """Whether a constant of this shape holds one value per channel: one axis longer than 1."""
    return sum(extent != 1 for extent in shape) == 1 and math.prod(shape) > 1


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds as attributes (If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _is_affine(node: onnx.NodeProto, scope: Scope) -> bool:
    """An element-wise node with exactly one constant operand, which is per-channel, and no bias of a MatMul.

    MatMul has no bias of its own, so an Add behind one is where the bias belongs.
    """
    if node.op_type not in AFFINE_OPS:
        return False
    known = [scope.constants[name] for name in node.input if name in scope.constants]
    is_bias = node.op_type == "Add" and any(name in scope.products for name in node.input)
    return len(known) == 1 and is_per_channel(known[0]) and not is_bias


def _walk_model(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    yield from _walk_graph(model.graph, {})
    for function in model.functions:
        yield from _walk_nodes(function.node, {})


def _walk_graph(graph: onnx.GraphProto, outer: Mapping[str, Shape]) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    yield from _walk_nodes(graph.node, {**outer, **weights})


def _walk_nodes(nodes: Sequence[onnx.NodeProto], known: Mapping[str, Shape]) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    constants = {**known, **_constant_nodes(nodes)}
    products = {node.output[0] for node in nodes if node.op_type == "MatMul" and constants.keys() & set(node.input)}
    scope = Scope(constants, products)
    for node in nodes:
        yield node, scope
        for graph in subgraphs(node):
            yield from _walk_graph(graph, constants)


def _constant_nodes(nodes: Iterable[onnx.NodeProto]) -> dict[str, Shape]:
    made = ((node, attribute) for node in nodes if node.op_type == "Constant" for attribute in node.attribute)
    return {node.output[0]: tuple(attribute.t.dims) for node, attribute in made if attribute.name == "value"}
