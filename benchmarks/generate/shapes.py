"""Graphs of many nodes in the forms that make careless algorithms slow: backwards, wide, and deep."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from benchmarks.generate.joins import JOINS
from benchmarks.generate.large import chain
from benchmarks.generate.parts import FLOAT, Sheet

_DEPTH = 20  # of subgraphs: more than exporters nest, and fewer than protobuf lets through
_DIMS = ("N", 8, 4, 4)


def backwards(nodes: int) -> onnx.ModelProto:
    """A chain of Conv, BatchNorm and Relu whose last node comes first in the file."""
    model = chain(nodes)
    turned = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(turned)
    return model


def fan_out(nodes: int) -> onnx.ModelProto:
    """One constant and one tensor that every node reads, and as many outputs."""
    sheet = Sheet()
    shared = sheet.constant(np.ones((1, 8, 1, 1), np.float32))
    start = sheet.norm(sheet.conv("x", 8, 8), 8)
    ends = [sheet.add("Mul", start, shared) for _ in range(nodes - 2)]
    return sheet.model(_DIMS, dict.fromkeys(ends, _DIMS))


def wide_concat(nodes: int) -> onnx.ModelProto:
    """A BatchNorm behind one Concat of very many Convs."""
    sheet = Sheet()
    weight = sheet.weight(1, 8, 1, 1)
    parts = [sheet.add("Conv", "x", weight) for _ in range(nodes - 2)]
    joined = sheet.add("Concat", *parts, axis=1)
    return sheet.model(_DIMS, {sheet.norm(joined, nodes - 2): ("N", nodes - 2, 4, 4)})


def nested(nodes: int) -> onnx.ModelProto:
    """If in If in If, with a chain of Conv, BatchNorm and Relu at every level; inner levels read what lies outside."""
    per_level = max(3, nodes // (_DEPTH + 1) // 3 * 3)
    inner: onnx.GraphProto | None = None
    for level in reversed(range(_DEPTH)):
        inner = _level(level, per_level, inner)
    sheet = Sheet()
    y = _blocks(sheet, "x", per_level)
    assert inner is not None
    condition = sheet.constant(np.array(True))
    sheet.nodes.append(helper.make_node("If", [condition], ["out"], then_branch=inner, else_branch=_other(y)))
    return sheet.model(_DIMS, {"out": _DIMS})


def _blocks(sheet: Sheet, y: str, nodes: int) -> str:
    for _ in range(nodes // 3):
        y = sheet.add("Relu", sheet.norm(sheet.conv(y, 8, 8), 8))
    return y


def _level(level: int, nodes: int, inner: onnx.GraphProto | None) -> onnx.GraphProto:
    sheet = Sheet(level)
    y = _blocks(sheet, "x", nodes)
    if inner is not None:
        condition = sheet.constant(np.array(True))
        sheet.nodes.append(helper.make_node("If", [condition], ["r"], then_branch=inner, else_branch=_other(y)))
        y = "r"
    _rename(sheet, f"l{level}_")
    return helper.make_graph(sheet.nodes, f"level{level}", [], [_info(f"l{level}_{y}")], sheet.weights)


def _rename(sheet: Sheet, prefix: str) -> None:
    """Names of their own for a level; `x`, which lies outside, and the names inside of deeper levels stay."""
    for node in sheet.nodes:
        for names in (node.input, node.output):
            names[:] = [name if name == "x" else prefix + name for name in names]
        node.name = prefix + node.name
        for attribute in node.attribute:
            if attribute.name == "else_branch":
                attribute.g.node[0].input[0] = prefix + attribute.g.node[0].input[0]
    for tensor in sheet.weights:
        tensor.name = prefix + tensor.name


def _other(value: str) -> onnx.GraphProto:
    node = helper.make_node("Identity", [value], [f"{value}_same"])
    return helper.make_graph([node], "else", [], [_info(f"{value}_same")])


def _info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, list(_DIMS))


FORMS = {
    "chain": chain,
    "backwards": backwards,
    "fan_out": fan_out,
    "wide_concat": wide_concat,
    "nested": nested,
    **JOINS,
}
