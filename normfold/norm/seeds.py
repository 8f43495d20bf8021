"""Where a norm may begin: every reduction and every norm operator, and the tensors that it may be a norm of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.model.shapes.reductions import reduce_axes
from normfold.norm.frame import Fact, Frame
from normfold.norm.transfer import composites, transfer, view_ops
from normfold.norm.views import sizes

REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2")
_POOLED = ("GlobalAveragePool", "InstanceNormalization")
_SUFFIX = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_VIEWS = ("Cast", "Identity", "Dropout", *view_ops.TABLE)
_MOST_BACK = 8


def is_seed(node: Node) -> bool:
    """Whether a node takes statistics of its first input."""
    if node.domain:
        return node.domain == "com.microsoft" and node.op_type == "GroupNorm"
    if node.op_type == "BatchNormalization":
        return composites.takes_statistics(node)
    known = (*REDUCTIONS, *_POOLED, *_SUFFIX, "GroupNormalization", "MeanVarianceNormalization")
    return node.op_type in known


def bases(constants: Constants, seed: Node) -> Iterator[tuple[Value, list[Node]]]:
    """The tensors that a seed may be a statistic of, the nearest first, with the nodes from there to the seed."""
    value = seed.input(0)
    path: list[Node] = []
    for _ in range(_MOST_BACK):
        if value is None or constants.get(value) is not None:
            return
        yield value, path[::-1]
        node = value.producer
        if node is None or node.domain or node.scope is not seed.scope:
            return
        slot = _operand(constants, node)
        if slot is None:
            return
        path.append(node)
        value = node.input(slot)


def _operand(constants: Constants, node: Node) -> int | None:
    """The input that a node is a view, a square or a scalar multiple of; None if it is nothing of that."""
    if node.op_type in _VIEWS or node.op_type == "Neg" or _is_square(constants, node):
        return 0
    if node.op_type not in ("Mul", "Div"):
        return None
    if _is_scalar(constants, node.input(1)):
        return 0
    return 1 if node.op_type == "Mul" and _is_scalar(constants, node.input(0)) else None


def _is_scalar(constants: Constants, value: Value | None) -> bool:
    source = constants.get(value)
    return source is not None and math.prod(source.dims) == 1


def _is_square(constants: Constants, node: Node) -> bool:
    if node.op_type == "Mul":
        return len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
    if node.op_type != "Pow":
        return False
    exponent = constants.array(node.input(1))
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0


def set_axes(frame: Frame, seed: Node, path: Sequence[Node]) -> bool:
    """Find out over which atoms of the base a seed takes its statistics; whether there are any.

    Raises:
        SplitError: the frame must start again with finer atoms.
    """
    for node in path:
        made = transfer(frame, node)
        if made is None or made[0] is None:
            return False
        frame.facts[id(node.output)] = made[0]
    fact = frame.fact(seed.input(0))
    atoms = None if fact is None else _atoms(frame, seed, fact)
    if not atoms:
        return False
    frame.axes = frozenset(atoms)
    return True


def _atoms(frame: Frame, seed: Node, fact: Fact) -> set[int] | None:
    axes = _dimensions(frame, seed, fact)
    if axes is None:
        return None
    if seed.op_type in ("GroupNormalization", "GroupNorm"):
        return _group_atoms(frame, seed, fact)
    found = {atom for i in axes for atom in fact.view[i].real}
    return found | _of_next(frame, seed, fact, axes)


def _dimensions(frame: Frame, seed: Node, fact: Fact) -> set[int] | None:
    rank = len(fact.view)
    if seed.op_type in REDUCTIONS:
        return reduce_axes(frame.shapes, seed, rank)
    if seed.op_type in _SUFFIX:
        axes = composites.trailing(seed, rank)
        return None if axes is None else set(axes)
    if seed.op_type == "MeanVarianceNormalization":
        return {axis % rank for axis in attributes.ints(seed, "axes") or (0, 2, 3) if axis < rank}
    return set(range(2, rank))


def _of_next(frame: Frame, seed: Node, fact: Fact, axes: set[int]) -> set[int]:
    """The atoms of a mean that is taken of this one right away: together they are one."""
    found: set[int] = set()
    node, gone = seed, set(axes)
    view = fact.view
    while node.op_type in ("ReduceMean", "ReduceSum") and node.outputs and node.outputs[0] is not None:
        readers = node.output.uses
        if len(readers) != 1 or readers[0].node.op_type != node.op_type or readers[0].node.domain:
            break
        if readers[0].node.is_bound_by_caller:
            break
        if not attributes.get(node, "keepdims", 1):
            view = tuple(axis for i, axis in enumerate(view) if i not in gone)
        node = readers[0].node
        more = reduce_axes(frame.shapes, node, len(view))
        if more is None or any(axis >= len(view) for axis in more):
            break
        gone = set(more)
        found |= {atom for i in more for atom in view[i].real}
    return found


def _group_atoms(frame: Frame, seed: Node, fact: Fact) -> set[int] | None:
    """Space, and the channels of one group."""
    name = "num_groups" if seed.op_type == "GroupNormalization" else "groups"
    groups = int(attributes.get(seed, name, 0))
    last = bool(seed.domain) and bool(attributes.get(seed, "channels_last", 1))
    channel = len(fact.view) - 1 if last else 1
    before = sizes(fact.view, frame.atoms)
    if len(before) < 3 or groups <= 0:
        return None
    target = [*before[:channel], groups, before[channel] // groups, *before[channel + 1 :]]
    view = view_ops.reshape_to(frame, fact.view, target, zero_copies=False)
    if view is None:
        return None
    return {atom for i in range(1, len(view)) if i != channel for atom in view[i].real}
