"""What an operator makes of forms: one row of a table per operator (`norm-fusion`, sections 2.3 and 2.4).

A row returns one fact per output, None for those that have none; it returns None where nothing has one. It reads every
attribute that the operator has, or requires the default of the schema.
"""

from __future__ import annotations

from collections.abc import Sequence

from normfold.model.graph import Node
from normfold.norm.frame import Fact, Frame, Transfer
from normfold.norm.transfer import composites, contrib, elementwise, reductions, view_ops

_STANDARD: dict[str, Transfer] = {
    **elementwise.TABLE,
    **reductions.TABLE,
    **view_ops.TABLE,
    **composites.TABLE,
}
_CONTRIB: dict[str, Transfer] = contrib.TABLE


def transfer(frame: Frame, node: Node) -> Sequence[Fact | None] | None:
    """The facts about the outputs of a node, from those about its inputs."""
    row = row_of(node)
    if row is None or node.is_bound_by_caller or node.is_call:
        return None
    return row(frame, node)


def row_of(node: Node) -> Transfer | None:
    """The row of an operator, None if it has none."""
    if not node.domain:
        return _STANDARD.get(node.op_type)
    return _CONTRIB.get(node.op_type) if node.domain == "com.microsoft" else None
