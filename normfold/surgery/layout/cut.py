"""The cheapest way to part a network in two: Dinic's algorithm on whole numbers, without recursion."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# More than everything that can be paid; two of them still compare.
NEVER = 1 << 60


@dataclass(slots=True)
class Network:
    """Nodes by number, arcs in pairs: arc `i` and its way back `i ^ 1`."""

    heads: list[int] = field(default_factory=list)
    rest: list[int] = field(default_factory=list)
    leaving: list[list[int]] = field(default_factory=list)

    def node(self) -> int:
        """One more node."""
        self.leaving.append([])
        return len(self.leaving) - 1

    def arc(self, tail: int, head: int, capacity: int) -> None:
        """What it costs to have `tail` on the side of the source and `head` on that of the sink."""
        for start, end, room in ((tail, head, capacity), (head, tail, 0)):
            self.leaving[start].append(len(self.heads))
            self.heads.append(end)
            self.rest.append(room)

    def sink_side(self, source: int, sink: int) -> set[int]:
        """The side of the sink in a cheapest cut, the smallest one if there are several."""
        while True:
            levels = self._levels(source, sink)
            if levels is None:
                return self._reaching(sink)
            self._block(source, sink, levels)

    def _levels(self, source: int, sink: int) -> list[int] | None:
        levels = [-1] * len(self.leaving)
        levels[source] = 0
        pending = deque([source])
        while pending:
            node = pending.popleft()
            for arc in self.leaving[node]:
                head = self.heads[arc]
                if self.rest[arc] and levels[head] < 0:
                    levels[head] = levels[node] + 1
                    pending.append(head)
        return None if levels[sink] < 0 else levels

    def _block(self, source: int, sink: int, levels: list[int]) -> None:
        """Fill shortest paths until there is none left; a node whose arcs lead nowhere is not entered again."""
        following = [0] * len(self.leaving)
        path: list[int] = []
        node = source
        while True:
            if node == sink:
                room = min(self.rest[arc] for arc in path)
                for arc in path:
                    self.rest[arc] -= room
                    self.rest[arc ^ 1] += room
                full = next(place for place, arc in enumerate(path) if not self.rest[arc])
                node = self.heads[path[full] ^ 1]
                del path[full:]
                continue
            if following[node] < len(self.leaving[node]):
                arc = self.leaving[node][following[node]]
                if self.rest[arc] and levels[self.heads[arc]] == levels[node] + 1:
                    path.append(arc)
                    node = self.heads[arc]
                else:
                    following[node] += 1
                continue
            if not path:
                return
            node = self.heads[path.pop() ^ 1]
            following[node] += 1

    def _reaching(self, sink: int) -> set[int]:
        """The nodes from which something could still flow to the sink."""
        found = {sink}
        pending = [sink]
        while pending:
            node = pending.pop()
            for arc in self.leaving[node]:
                tail = self.heads[arc]
                if self.rest[arc ^ 1] and tail not in found:
                    found.add(tail)
                    pending.append(tail)
        return found
