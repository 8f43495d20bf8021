"""Whether a plan may leave something that only a look at its result would find.

Planners of norms and of affines each go on until nothing changes, so it takes both of them: an affine that went next to a
norm, a node that went and kept the opset low, or calls, of which only those are inlined that some edit needs; and operators
that are merged may say more about their result than the sum did. To look again at a model where nothing like that happened
would take as long as the first look, and find nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from normfold.model.graph import Node
from normfold.model.shapes import Shapes
from normfold.surgery.calls import Planned
from normfold.surgery.norms import NormPlan
from normfold.surgery.plan import Edit

_OPSET = "NF202.opset"
# They are part of a norm wherever they stand between it and what belongs to it, and they may be many in a row.
_VIEWS = frozenset(("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Identity", "Cast", "Dropout"))
_MOST_VIEWS = 8
# What an affine goes into that may belong to a norm; the weights of others mean nothing to one.
_ELEMENTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Sum", "BatchNormalization", "Max", "Min", "Pad", "Clip"))


def is_unsettled(planned: Planned, norms: NormPlan) -> bool:
    """Whether to look at the result of a plan.

    Args:
        planned: everything that is planned.
        norms: the part that is about norms.
    """
    plan = planned.plan
    if not plan.edits and not plan.norms:
        return False
    if planned.model.functions or planned.model.inlined:
        return True
    if any(_tells_its_channels(edit, plan.draft.shapes) for edit in plan.edits if edit.is_merge):
        return True
    if not plan.edits:
        return False
    if any(decision.code == _OPSET for decision in norms.decisions):
        return True
    return any(_touches(node, norms.spoken_for) for edit in plan.edits for node in _changed(edit))


def _tells_its_channels(edit: Edit, shapes: Shapes) -> bool:
    """Whether a merge says how many channels there are where the sum of its branches did not: its weights say it."""
    (root,) = edit.bypassed
    dims = shapes.dims(root.output)
    axis = -1 if any(slot.node.op_type in ("MatMul", "Gemm") for slot in edit.slots) else 1
    return dims is None or len(dims) < 2 or not isinstance(dims[axis], int)


def _changed(edit: Edit) -> Iterator[Node]:
    """The nodes that go, and those that mean something else."""
    yield from edit.bypassed
    yield from edit.dropped
    yield from (slot.node for slot in edit.slots if slot.node.op_type in _ELEMENTWISE)


def _touches(node: Node, norms: Collection[str]) -> bool:
    """Whether a node belongs to a norm, given by the keys of its nodes, or stands next to one."""
    if node.key in norms:
        return True
    pending = [(item, _MOST_VIEWS) for item in _neighbours(node)]
    seen = {id(node)}
    while pending:
        current, left = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if current.key in norms:
            return True
        if left and current.op_type in _VIEWS:
            pending += [(item, left - 1) for item in _neighbours(current)]
    return False


def _neighbours(node: Node) -> Iterator[Node]:
    yield from (value.producer for value in node.inputs if value is not None and value.producer is not None)
    yield from (use.node for value in node.outputs if value is not None for use in value.uses)
