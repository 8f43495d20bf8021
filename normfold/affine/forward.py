"""The forward search: from the input side of everything that reads an affine on to weights that can take it.

All readers must take it, or let it pass to readers that do: an affine that one of them needs stays for all. What travels
is kept per value, and nodes are visited in execution order, so that branches that meet again meet with all that they
carry: `x + x` sees the affine on both operands.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from normfold.affine.absorbers import ABSORBERS
from normfold.affine.algebra import Affine
from normfold.affine.change import require_normal_factors
from normfold.affine.crossings import CROSSINGS
from normfold.affine.crossings.base import Passed
from normfold.affine.draft import Absorption, Draft
from normfold.affine.patterns import require_no_gate
from normfold.affine.reasons import Refused
from normfold.affine.search import VISITS, Budget, Found, consistent, no_passage, require_narrow, require_standard
from normfold.model import dtypes
from normfold.model.graph import Node, Value

# Behind these the data differs from what the model computes now by more than the factor: sums may overflow without it.
_GROWING = ("Add", "Sub", "Sum", "ReduceSum", "ReduceL1", "ReduceL2", "LpPool", "GlobalLpPool")


def absorb_forward(draft: Draft, value: Value, affine: Affine) -> Found:
    """The slots behind `value` that take an affine together.

    Args:
        value: the output of the affine node; it holds `affine(x)` and will hold `x`.
        affine: in broadcast form, of the rank of the value.

    Raises:
        Refused: with the reason of the first reader that cannot take it.
    """
    if next(draft.readers(value), None) is None:
        raise Refused("no-absorber", f"nobody reads {value.name!r}")
    return _Search(draft, value, affine).run()


class _Search:
    def __init__(self, draft: Draft, value: Value, affine: Affine) -> None:
        self.draft = draft
        self.budget = Budget()
        self.scope = value.scope
        self.arriving: dict[int, dict[int, Affine]] = {}  # by identity of a node that reads them, and input slot
        self.queue: list[tuple[int, int, Node]] = []
        self.absorbed: list[Absorption] = []
        self.crossed: list[Node] = []
        self._carry(value, affine)

    def run(self) -> Found:
        """Visit what reads a carried value, in execution order, until nothing carries any more."""
        while self.queue:
            _, identity, node = heapq.heappop(self.queue)
            self.budget.spend()
            with consistent(node):
                self._visit(node, dict(sorted(self.arriving[identity].items())))
        return Found(tuple(self.absorbed), tuple(self.crossed))

    def _carry(self, value: Value, affine: Affine) -> None:
        if affine.is_identity:
            return
        root = self.draft.root(value)
        output = self.draft.output_of(root)
        if output is not None:
            raise Refused("graph-output", f"{output.name!r} is an output of the graph")
        for use in self.draft.readers(root):
            if use.node.scope is not self.scope:
                raise Refused("captured", f"{value.name!r} is read in a subgraph by {use.node.label!r}", use.node.label)
            if id(use.node) not in self.arriving:
                if len(self.arriving) > VISITS:
                    break  # the search ends before all of these are visited
                self._await(use.node)
            self.arriving[id(use.node)][use.slot] = affine

    def _await(self, node: Node) -> None:
        require_narrow(node)
        heapq.heappush(self.queue, (self.draft.position(node), id(node), node))
        self.arriving[id(node)] = {}

    def _visit(self, node: Node, arriving: Mapping[int, Affine]) -> None:
        require_standard(node)
        absorber = ABSORBERS.get(node.op_type)
        if absorber is not None and absorber.accept_forward is not None:
            try:
                absorbed = absorber.accept_forward(self.draft, node, arriving)
                self.absorbed += absorbed
                self.crossed += [node] if not absorbed else []
                return
            except Refused:
                if node.op_type not in CROSSINGS:
                    raise
        if node.op_type == "Mul":
            require_no_gate(self.draft, node)
        passed = self._pass(node, arriving)
        self.crossed.append(node)
        self.absorbed += passed.absorbed
        for slot, affine in passed.outputs.items():
            output = node.outputs[slot]
            if output is not None:
                self._carry(output, affine)

    def _pass(self, node: Node, arriving: Mapping[int, Affine]) -> Passed:
        crossing = CROSSINGS.get(node.op_type)
        if crossing is None or crossing.forward is None:
            raise no_passage(node)
        if node.op_type in _GROWING:
            kind = self.draft.shapes.data_type(node.output)
            if kind is not None and dtypes.is_float(kind):
                require_normal_factors([affine.scale for affine in arriving.values()], kind)
        return crossing.forward(self.draft, node, arriving)
