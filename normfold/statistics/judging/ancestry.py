"""Which normalisations stand in front of which."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from normfold.model.graph import Scope
from normfold.statistics.probes.reach import reads
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject


class Ancestry:
    """Reachability between sites of the main graph and of the bodies in it.

    What an iteration passes on to the next one is left out: a site does not stand in front of itself.

    Args:
        subject: the model.
        sites: those that count, in execution order.
    """

    def __init__(self, subject: Subject, sites: Sequence[StatSite]) -> None:
        self._order = [site.key for site in sites]
        self._numbers = {id(site.node): i for i, site in enumerate(sites)}
        self._behind: dict[int, int] = {}  # by value: bits of the sites that it depends on
        self._before: dict[str, int] = {}
        self._visit(subject.model.graph)

    def _visit(self, scope: Scope) -> int:
        """Bits of the sites in a scope."""
        inside = 0
        for node in scope.nodes:
            bits = 0
            for value in reads(node):
                bits |= self._behind.get(id(value), 0)
            number = self._numbers.get(id(node))
            if number is not None:
                self._before[self._order[number]] = bits
                bits |= 1 << number
            for body in node.subgraphs:
                self._behind.update({id(value): bits for value in body.inputs})
            for body in node.subgraphs:
                bits |= self._visit(body)
            for made in node.outputs:
                if made is not None:
                    self._behind[id(made)] = bits
            inside |= bits
        return inside

    def upstream(self, key: str) -> list[str]:
        """The sites that a site depends on, in execution order."""
        bits = self._before.get(key, 0)
        return [other for i, other in enumerate(self._order) if bits >> i & 1]

    def first(self) -> list[str]:
        """The sites that depend on no other: what they see is the input, through weights alone."""
        return [key for key in self._order if not self._before.get(key, 0)]

    def nearest(self, key: str, among: Collection[str]) -> str | None:
        """The last of these sites that a site depends on."""
        return next((other for other in reversed(self.upstream(key)) if other in among), None)

    def levels(self) -> Sequence[Sequence[str]]:
        """Sites that do not depend on each other together, each level behind those before it."""
        depth: dict[str, int] = {}
        for key in self._order:
            depth[key] = 1 + max((depth[other] for other in self.upstream(key)), default=-1)
        return [[k for k in self._order if depth[k] == d] for d in sorted(set(depth.values()))]
