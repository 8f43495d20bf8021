"""Arithmetic element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from normfold.model import attributes, dtypes
from normfold.model.graph import Node
from normfold.norm import forms
from normfold.norm.filled import collapsed, mapped
from normfold.norm.forms import Form
from normfold.norm.frame import Constant, Fact, Frame, Operand, Transfer, narrower

Facts = Sequence[Fact | None] | None


def _with(fact: Fact, form: Form) -> Facts:
    return None if fact.partial else [replace(fact, form=form)]


def _plain(node: Node, inputs: int) -> bool:
    """Whether a node has so many inputs and no attributes that matter. Before opset 7, broadcasting was an attribute."""
    return len(node.inputs) == inputs and not attributes.unexpected(node, ()) and node.scope.version >= 7


def same(frame: Frame, node: Node) -> Facts:
    """Identity, and Dropout as it is at inference."""
    fact = frame.fact(node.input(0))
    return None if fact is None or attributes.unexpected(node, ()) else [fact]


def _dropout(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or node.named_outputs() > 1 or attributes.unexpected(node, ("ratio", "is_test")):
        return None
    if node.scope.version < 7 and not attributes.get(node, "is_test", 0):
        return None
    mode = node.input(2)
    if mode is not None:
        array = frame.shapes.constants.array(mode)
        if array is None or array.size != 1 or bool(array.reshape(())):
            return None
    return [fact]


def _cast(frame: Frame, node: Node) -> Facts:
    fact, target = frame.fact(node.input(0)), int(attributes.get(node, "to", 0))
    if fact is None or not dtypes.is_float(target) or attributes.unexpected(node, ("to", "saturate", "round_mode")):
        return None
    return [replace(fact, data_type=target, narrowest=narrower(fact.narrowest, target))]


def _cast_like(frame: Frame, node: Node) -> Facts:
    fact, like = frame.fact(node.input(0)), node.input(1)
    target = None if like is None else frame.shapes.data_type(like)
    if fact is None or target is None or not dtypes.is_float(target) or attributes.unexpected(node, ("saturate",)):
        return None
    return [replace(fact, data_type=target, narrowest=narrower(fact.narrowest, target))]


def _neg(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    return None if fact is None or attributes.unexpected(node, ()) else _with(fact, forms.scaled(fact.form, -1.0))


def add(frame: Frame, a: Operand, b: Operand, sign: float = 1.0) -> Fact | None:
    """`a + sign·b`."""
    if isinstance(a, Fact) and isinstance(b, Fact):
        both = frame.together(a, b)
        form = None if both is None else forms.added(a.form, b.form, sign, frame.close)
        return None if both is None or form is None else replace(both, form=form)
    if isinstance(a, Fact) and isinstance(b, Constant):
        return _add_constant(frame, a, b, 1.0, sign)
    if isinstance(a, Constant) and isinstance(b, Fact):
        return _add_constant(frame, b, a, sign, 1.0)
    return None


def _add_constant(frame: Frame, fact: Fact, constant: Constant, mine: float, theirs: float) -> Fact | None:
    met = None if fact.partial else frame.with_constant(fact, constant)
    if met is None:
        return None
    coefficient, grown = met
    form = forms.added(forms.scaled(fact.form, mine), forms.constant(coefficient), theirs, frame.close)
    return None if form is None else replace(grown, form=form)


def multiply(frame: Frame, a: Operand, b: Operand) -> Fact | None:
    """`a · b`."""
    if isinstance(a, Constant):
        a, b = b, a
    if not isinstance(a, Fact):
        return None
    if isinstance(b, Fact):
        both = frame.together(a, b)
        form = None if both is None else forms.multiplied(a.form, b.form, frame.close)
        return None if both is None or form is None else replace(both, form=form)
    met = None if b is None or a.partial else frame.with_constant(a, b)
    if met is None:
        return None
    coefficient, grown = met
    return replace(grown, form=forms.scaled(a.form, coefficient)) if forms.is_finite(coefficient) else None


def power(fact: Fact | None, exponent: float) -> Fact | None:
    """`fact ^ exponent`."""
    form = None if fact is None or fact.partial else forms.raised(fact.form, exponent)
    return None if fact is None or form is None else replace(fact, form=form)


def reciprocal(frame: Frame, operand: Operand) -> Operand:
    """`1 / operand`."""
    if isinstance(operand, Fact):
        return power(operand, -1.0)
    if operand is None or not collapsed(operand.values).all():
        return None
    return Constant(mapped(operand.values, lambda values: 1.0 / values), operand.data_type)


def _operands(frame: Frame, node: Node) -> tuple[Operand, Operand] | None:
    """The two operands of a node, at least one of which has a form: that is why it is looked at."""
    if not _plain(node, 2):
        return None
    first, second = (frame.operand(value) for value in node.inputs)
    return first, second


def _add(frame: Frame, node: Node) -> Facts:
    operands = _operands(frame, node)
    return None if operands is None else [add(frame, *operands)]


def _sub(frame: Frame, node: Node) -> Facts:
    operands = _operands(frame, node)
    return None if operands is None else [add(frame, *operands, sign=-1.0)]


def _mul(frame: Frame, node: Node) -> Facts:
    operands = _operands(frame, node)
    return None if operands is None else [multiply(frame, *operands)]


def _div(frame: Frame, node: Node) -> Facts:
    operands = _operands(frame, node)
    return None if operands is None else [multiply(frame, operands[0], reciprocal(frame, operands[1]))]


def _sum(frame: Frame, node: Node) -> Facts:
    if attributes.unexpected(node, ()) or node.scope.version < 8:
        return None
    total = frame.operand(node.inputs[0])
    for value in node.inputs[1:]:
        total = add(frame, total, frame.operand(value))
    return [total] if isinstance(total, Fact) else None


def _root(frame: Frame, node: Node) -> Facts:
    return [power(frame.fact(node.input(0)), 0.5)] if _plain(node, 1) else None


def _inverse(frame: Frame, node: Node) -> Facts:
    return [power(frame.fact(node.input(0)), -1.0)] if _plain(node, 1) else None


def _pow(frame: Frame, node: Node) -> Facts:
    exponent = frame.constant(node.input(1)) if _plain(node, 2) else None
    fact = frame.fact(node.input(0))
    if fact is None or exponent is None or not exponent.values.size:
        return None
    exponents = collapsed(exponent.values)
    value = float(exponents.flat[0])
    met = frame.meets(exponent.values, fact.view)
    if met is None or met[1] != fact.view or (exponents != value).any():
        return None
    return [power(fact, value)]


def _at_least(fact: Fact | None, bound: float | None) -> Facts:
    """A clamp from below that never takes effect."""
    if fact is None or bound is None:
        return None
    lowest = forms.lower_bound(fact.form)
    return [fact] if lowest is not None and lowest >= bound else None


def _relu(frame: Frame, node: Node) -> Facts:
    return _at_least(frame.fact(node.input(0)), 0.0) if not attributes.unexpected(node, ()) else None


def _max(frame: Frame, node: Node) -> Facts:
    if not _plain(node, 2) or node.scope.version < 8:
        return None
    for first, second in (node.inputs, node.inputs[::-1]):
        fact, bound = frame.fact(first), frame.constant(second)
        if fact is not None and bound is not None and bound.values.size:
            met = frame.meets(bound.values, fact.view)
            if met is None or met[1] != fact.view:
                return None
            return _at_least(fact, float(collapsed(bound.values).max()))
    return None


def _clip(frame: Frame, node: Node) -> Facts:
    if attributes.unexpected(node, ("min", "max")):
        return None
    if node.scope.version < 11:
        if "max" in node.attributes:
            return None
        low = attributes.get(node, "min", None)
        return None if low is None else _at_least(frame.fact(node.input(0)), float(low))
    if node.input(2) is not None and not _is_no_limit(frame, node):
        return None
    return _at_least(frame.fact(node.input(0)), frame.scalar(node.input(1)))


def _is_no_limit(frame: Frame, node: Node) -> bool:
    return frame.scalar(node.input(2)) == float("inf")


TABLE: dict[str, Transfer] = {
    "Identity": same,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Neg": _neg,
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Div": _div,
    "Sum": _sum,
    "Sqrt": _root,
    "Reciprocal": _inverse,
    "Pow": _pow,
    "Relu": _relu,
    "Abs": _relu,
    "Max": _max,
    "Clip": _clip,
}
