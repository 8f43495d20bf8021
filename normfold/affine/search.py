"""The backward search: from the output side of an affine up to weights that can take it.

The search only reads. It returns the slots that would take the affine, or the refusal that stopped it: of the
alternatives at a branching, that of the first one, which is the preferred one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from normfold.affine.absorbers import ABSORBERS
from normfold.affine.algebra import Affine
from normfold.affine.crossings import CROSSINGS
from normfold.affine.crossings.base import Way
from normfold.affine.draft import Absorption, Draft, sees_elements
from normfold.affine.kernels import require_float
from normfold.affine.reasons import Refused
from normfold.model.graph import Node, Use, Value

# A search visits at most so many nodes, each of at most so many inputs, and nests at most so many branchings: all three
# keep planning linear in the model. Several thousand affines in front of one Concat would all look at all of it.
VISITS = 200
_DEPTH = 24
_WIDTH = 256

# Operators whose further outputs are parts of the same data; of all others only the first output is.
_MANY_OUTPUTS = ("Split",)
CONTRADICTION = "contradicts itself"


class Budget:
    """How many steps a search has left."""

    def __init__(self) -> None:
        self.visits = VISITS

    def spend(self) -> None:
        """One step.

        Raises:
            Refused: `search-limit`.
        """
        self.visits -= 1
        if self.visits < 0:
            raise Refused("search-limit", f"no operator with weights within {VISITS} steps")


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search: the slots that take the affine, and the nodes that it moves past."""

    absorptions: tuple[Absorption, ...] = ()
    crossed: tuple[Node, ...] = ()

    def plus(self, other: Found) -> Found:
        """Both together."""
        return Found(self.absorptions + other.absorptions, self.crossed + other.crossed)


@contextmanager
def consistent(node: Node) -> Iterator[None]:
    """Around what a row of a table says about a node: shapes and attributes that contradict each other refuse.

    The rows compute with what the model declares, as the rules for shapes do; no runtime would run such a node.

    Raises:
        Refused: `ill-formed`.
    """
    try:
        yield
    except (ValueError, IndexError, TypeError, ZeroDivisionError) as error:
        raise Refused("ill-formed", f"{node.op_type} {node.label!r} {CONTRADICTION}: {error}", node.label) from error


def absorb_backward(draft: Draft, use: Use, affine: Affine) -> Found:
    """The slots that take an affine which acts on the value read by `use`.

    Args:
        use: the reading that the affine stands for; the value must have no other.
        affine: in broadcast form, of the rank of the value.

    Raises:
        Refused: with the reason of the node in the way.
    """
    return _search(draft, use, affine, Budget(), 0)


def _search(draft: Draft, use: Use, affine: Affine, budget: Budget, depth: int) -> Found:
    absorbed: list[Absorption] = []
    crossed: list[Node] = []
    while True:
        budget.spend()
        node, slot = _producer(draft, use)
        if slot and node.op_type not in _MANY_OUTPUTS:
            raise Refused("no-absorber", f"it reads output {slot} of {node.op_type} {node.label!r}", node.label)
        absorber = ABSORBERS.get(node.op_type)
        if absorber is not None and absorber.accept is not None:
            try:
                with consistent(node):
                    return Found((*absorbed, absorber.accept(draft, node, affine)), tuple(crossed))
            except Refused:
                if node.op_type not in CROSSINGS:
                    raise
        require_narrow(node)
        with consistent(node):
            ways = _ways(draft, node, slot, affine)
        crossed.append(node)
        if len(ways) == 1 and len(ways[0].onward) == 1:
            absorbed += ways[0].absorbed
            use, affine = ways[0].onward[0]
            continue
        return Found(tuple(absorbed), tuple(crossed)).plus(_branch(draft, ways, budget, depth))


def _ways(draft: Draft, node: Node, slot: int, affine: Affine) -> list[Way]:
    """All ways past a node.

    Raises:
        Refused: there is none.
    """
    crossing = CROSSINGS.get(node.op_type)
    if crossing is None or crossing.backward is None:
        raise no_passage(node)
    ways: list[Way] = []
    try:
        ways.extend(crossing.backward(draft, node, slot, affine))
    except Refused:
        if not ways:
            raise
    return ways


def require_narrow(node: Node) -> None:
    """The node does not join so many branches that every search would be long.

    Raises:
        Refused: `search-limit`.
    """
    if len(node.inputs) > _WIDTH:
        raise Refused(
            "search-limit",
            f"{node.op_type} {node.label!r} has {len(node.inputs)} inputs, more than {_WIDTH}",
            node.label,
        )


def no_passage(node: Node) -> Refused:
    """A node that stops every search."""
    return Refused(
        "no-absorber",
        f"{node.op_type} {node.label!r} has no weights that could take it and lets nothing pass",
        node.label,
    )


def _branch(draft: Draft, ways: list[Way], budget: Budget, depth: int) -> Found:
    if depth >= _DEPTH:
        raise Refused("search-limit", f"more than {_DEPTH} branchings inside each other")
    first: Refused | None = None
    for way in ways:
        try:
            found = Found(way.absorbed)
            for use, affine in way.onward:
                if not affine.is_identity:
                    found = found.plus(_search(draft, use, affine, budget, depth + 1))
            return found
        except Refused as reason:
            first = first or reason
    assert first is not None
    raise first


def _producer(draft: Draft, use: Use) -> tuple[Node, int]:
    """The operator that makes the value which `use` reads, if nobody else would notice a change of it."""
    value = use.node.inputs[use.slot]
    assert value is not None
    root = draft.root(value)
    require_private(draft, root, use.node)
    node = root.producer
    if node is None:
        raise Refused("no-absorber", f"{root.name!r} is an input: there is nothing in front that could take it")
    require_standard(node)
    return node, root.output_slot


def require_standard(node: Node) -> None:
    """The node is an operator that the tables may know.

    Raises:
        Refused: `quantised`, `custom-domain`, `unknown-attribute`.
    """
    require_float(node)
    if node.domain:
        raise Refused("custom-domain", f"{node.op_type} {node.label!r} belongs to domain {node.domain!r}", node.label)
    if node.is_bound_by_caller:
        raise Refused("unknown-attribute", f"an attribute of {node.label!r} is given by each call", node.label)


def require_private(draft: Draft, value: Value, reader: Node) -> None:
    """Nobody but `reader` sees the value.

    Raises:
        Refused: `graph-output`, `captured`, `shared`.
    """
    output = draft.output_of(value)
    if output is not None:
        raise Refused("graph-output", f"{output.name!r} is an output of the graph")
    if value.scope is not reader.scope:
        raise Refused("captured", f"{value.name!r} comes from outside of the subgraph", value.name)
    count = 0
    for other in filter(sees_elements, draft.uses(value)):  # the first other one is enough, and there may be very many
        count += 1
        if other.node.scope is not value.scope:
            raise Refused(
                "captured", f"{value.name!r} is also read in a subgraph by {other.node.label!r}", other.node.label
            )
        if other.node is not reader:
            raise Refused(
                "shared", f"{value.name!r} is also read by {other.node.op_type} {other.node.label!r}", other.node.label
            )
    if count != 1:
        raise Refused("shared", f"{reader.op_type} {reader.label!r} reads {value.name!r} more than once", reader.label)
