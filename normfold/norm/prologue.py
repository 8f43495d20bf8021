"""What stands at the front of a norm and is not of its pattern: a factor, or a shift, that all of x goes through.

The normal form takes it in: `c·x / sqrt(mean((c·x)²) + epsilon)` is a norm of x with `epsilon / c²`. Whoever looks for a norm
by its spelling starts behind it, so that it may as well go elsewhere.
"""

from __future__ import annotations

from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.norm.recognise import NormSite

_AFFINE = frozenset(("Mul", "Div", "Add", "Sub"))


def prologue(constants: Constants, site: NormSite) -> tuple[Node, ...]:
    """The nodes of a norm that only scale or shift what all its other nodes read, from its base on."""
    own = {id(node) for node in site.nodes}
    found: list[Node] = []
    value = site.base
    while True:
        readers = {id(use.node): use.node for use in value.uses if id(use.node) in own}
        node = next(iter(readers.values())) if len(readers) == 1 else None
        if node is None or node is site.end or not _is_affine(constants, node, value):
            return tuple(found)
        found.append(node)
        value = node.output


def _is_affine(constants: Constants, node: Node, value: Value) -> bool:
    if node.domain or node.named_outputs() != 1:
        return False
    if node.op_type == "Neg":
        return True
    if node.op_type not in _AFFINE or (node.op_type == "Div" and node.input(0) is not value):
        return False
    others = [item for item in node.inputs if item is not value]
    return len(others) == 1 and constants.get(others[0]) is not None
