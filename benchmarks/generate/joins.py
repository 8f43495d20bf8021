"""Graphs of many nodes that meet in one: branches of a Concat, of a sum, of a fan-out, and calls of one function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from benchmarks.generate.parts import OPSET, Sheet

_DIMS = ("N", 8, 4, 4)
_DOMAIN = "local"


def wide_products(nodes: int) -> onnx.ModelProto:
    """A product by channel in every branch of one Concat: each of them could look for weights behind all others."""
    sheet = Sheet()
    start = sheet.conv("x", 8, 8)
    parts = [sheet.add("Mul", start, sheet.constant(_factor(sheet))) for _ in range(nodes - 2)]
    joined = sheet.add("Concat", *parts, axis=1)
    return sheet.model(_DIMS, {joined: ("N", 8 * len(parts), 4, 4)})


def split_products(nodes: int) -> onnx.ModelProto:
    """The same in front of a Conv that would take them, and with no more in one Concat than a search looks at."""
    sheet = Sheet()
    ends = []
    for _ in range(nodes // 11):
        joined = sheet.add(
            "Concat", *(sheet.add("Mul", "x", sheet.constant(_factor(sheet))) for _ in range(10)), axis=1
        )
        ends.append(sheet.conv(joined, 80, 8, 1))
    return sheet.model(_DIMS, dict.fromkeys(ends, _DIMS))


def sum_tree(nodes: int) -> onnx.ModelProto:
    """Convs of one tensor in a balanced tree of Adds, and a BatchNorm behind."""
    sheet = Sheet()
    level = [sheet.conv("x", 8, 8, 1) for _ in range(nodes // 2)]
    while len(level) > 1:
        left, right, odd = level[:-1:2], level[1::2], level[len(level) // 2 * 2 :]
        level = [*(sheet.add("Add", *pair) for pair in zip(left, right, strict=True)), *odd]
    return sheet.model(_DIMS, {sheet.norm(level[0], 8): _DIMS})


def sum_of_tensors(nodes: int) -> onnx.ModelProto:
    """Convs of as many tensors in one Sum: no two of them may merge."""
    sheet = Sheet()
    parts = [sheet.conv(sheet.add("Relu", "x"), 8, 8, 1) for _ in range(nodes // 2)]
    return sheet.model(_DIMS, {sheet.norm(sheet.add("Sum", *parts), 8): _DIMS})


def sum_chain(nodes: int) -> onnx.ModelProto:
    """Convs of as many tensors, added to one another one by one."""
    sheet = Sheet()
    end, *others = (sheet.conv(sheet.add("Relu", "x"), 8, 8, 1) for _ in range(nodes // 3))
    for other in others:
        end = sheet.add("Add", end, other)
    return sheet.model(_DIMS, {end: _DIMS})


def relu_fan(nodes: int) -> onnx.ModelProto:
    """A Conv whose result goes through as many pairs of Relu and BatchNorm."""
    sheet = Sheet()
    return sheet.model(_DIMS, dict.fromkeys(_pairs(sheet, nodes), _DIMS))


def relu_concat(nodes: int) -> onnx.ModelProto:
    """The same pairs in one Concat."""
    sheet = Sheet()
    ends = _pairs(sheet, nodes)
    return sheet.model(_DIMS, {sheet.add("Concat", *ends, axis=1): ("N", 8 * len(ends), 4, 4)})


def relu_chain(nodes: int) -> onnx.ModelProto:
    """A chain of Relus, farther than a search goes, between a Conv and a BatchNorm."""
    sheet = Sheet()
    end = sheet.conv("x", 8, 8)
    for _ in range(nodes - 2):
        end = sheet.add("Relu", end)
    return sheet.model(_DIMS, {sheet.norm(end, 8): _DIMS})


def norm_chain(nodes: int) -> onnx.ModelProto:
    """A chain of BatchNorms behind an operator that nothing passes; only one of them stays."""
    sheet = Sheet()
    end = sheet.add("Sigmoid", "x")
    for _ in range(nodes):
        end = sheet.norm(end, 8)
    return sheet.model(_DIMS, {end: _DIMS})


def calls(nodes: int) -> onnx.ModelProto:
    """As many calls of a function as it has nodes: too much to put in their place."""
    body = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(nodes - 1)]
    body.append(helper.make_node("Mul", [f"v{nodes - 1}", "c"], ["y"]))
    standard = helper.make_opsetid("", OPSET)
    function = helper.make_function(_DOMAIN, "Long", ["v0", "c"], ["y"], body, [standard])
    sheet = Sheet()
    factor, end = sheet.constant(_factor(sheet)), "x"
    for _ in range(nodes):
        end = sheet.add("Long", end, factor, domain=_DOMAIN)
    model = sheet.model(_DIMS, {end: _DIMS})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return model


def _pairs(sheet: Sheet, nodes: int) -> Sequence[str]:
    start = sheet.conv("x", 8, 8)
    return [sheet.norm(sheet.add("Relu", start), 8) for _ in range(nodes // 2)]


def _factor(sheet: Sheet) -> np.ndarray:
    return sheet.rng.uniform(0.5, 1.5, (1, 8, 1, 1)).astype(np.float32)


JOINS = {
    "wide_products": wide_products,
    "split_products": split_products,
    "sum_tree": sum_tree,
    "sum_of_tensors": sum_of_tensors,
    "sum_chain": sum_chain,
    "relu_fan": relu_fan,
    "relu_concat": relu_concat,
    "relu_chain": relu_chain,
    "norm_chain": norm_chain,
    "calls": calls,
}
