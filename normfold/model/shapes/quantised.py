"""Operators on integers: those of the standard, whose operands come with a scale and a zero point each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model.graph import Node
from normfold.model.shapes.dims import Dims
from normfold.model.shapes.elementwise import matmul_dims
from normfold.model.shapes.rule import Rule
from normfold.model.shapes.windows import conv_dims

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes


def _qlinear_conv(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return conv_dims(node, shapes.known(node.input(0)), shapes.known(node.input(3)))


def _conv_integer(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return conv_dims(node, shapes.known(node.input(0)), shapes.known(node.input(1)))


def _qlinear_matmul(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return matmul_dims(shapes.known(node.input(0)), shapes.known(node.input(3)))


def _matmul_integer(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return matmul_dims(shapes.known(node.input(0)), shapes.known(node.input(1)))


def _dynamic_quantize(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    return () if slot else shapes.known(node.input(0))


RULES: dict[str, Rule] = {
    "QLinearConv": Rule(_qlinear_conv, 4),
    "ConvInteger": Rule(_conv_integer, 2),
    "QLinearMatMul": Rule(_qlinear_matmul, 4),
    "MatMulInteger": Rule(_matmul_integer, 2),
    "DynamicQuantizeLinear": Rule(_dynamic_quantize),
}
