"""Which operators work on channels-last data, so that the least data is moved: pure data, exactly solved.

Every operator works in one of two layouts, every tensor comes in the layout of the operator that makes it, and one
Transpose serves all that read it in the other one. So a tensor costs its weight once if anybody reads it in the layout in
which it is not made, and an operator that gains by working channels-last costs that gain where it does not. The cheapest
choice is a minimum cut: sides are layouts, and two further nodes per tensor stand for "its copy in the other layout exists".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from normfold.surgery.layout.cut import NEVER, Network


class Layout(StrEnum):
    """Where the channels of a tensor are."""

    FIRST = "channels first"
    LAST = "channels last"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator.

    Args:
        name: unique among the operators.
        reads, makes: names of the tensors whose layout it follows.
        gain: what is saved if it works channels-last, in the unit of the weights.
    """

    name: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    gain: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that has a layout.

    Args:
        name: unique among the tensors.
        weight: what it costs to bring it into the other layout, its number of elements for example.
        origin: the layout in which it comes from outside; None where an operator makes it.
        needed: the layouts in which it is read outside.
    """

    name: str
    weight: int
    origin: Layout | None = None
    needed: frozenset[Layout] = frozenset()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A choice.

    Args:
        last: names of the operators that work channels-last.
        turned: names of the tensors that exist in both layouts.
        cost: weights of the tensors that exist in both layouts, and gains that were left.
    """

    last: frozenset[str]
    turned: frozenset[str]
    cost: int


def assign(operations: Sequence[Operation], tensors: Sequence[Tensor]) -> Assignment:
    """The choice that costs least; of several, the one that changes the fewest operators.

    Args:
        operations: each tensor is made by one of them at most, and by none if it has an origin.
        tensors: all that they read and make.
    """
    network = Network()
    first, last = network.node(), network.node()
    nodes = {operation.name: network.node() for operation in operations}
    for operation in operations:
        if operation.gain:
            network.arc(nodes[operation.name], last, operation.gain)
    makers = {name: nodes[operation.name] for operation in operations for name in operation.makes}
    readers = _readers(operations)
    ends = {Layout.FIRST: first, Layout.LAST: last}
    for tensor in tensors:
        maker = makers[tensor.name] if tensor.origin is None else ends[tensor.origin]
        read_by = [nodes[name] for name in readers.get(tensor.name, ())]
        read_by += [ends[layout] for layout in sorted(tensor.needed)]
        _add_copies(network, maker, read_by, tensor.weight)
    side = network.sink_side(first, last)
    return judged(operations, tensors, {name for name, node in nodes.items() if node in side})


def _add_copies(network: Network, maker: int, readers: Iterable[int], weight: int) -> None:
    """One payment for a channels-last copy of what is made channels-first, one for the reverse."""
    to_last, to_first = network.node(), network.node()
    network.arc(maker, to_last, weight)
    network.arc(to_first, maker, weight)
    for reader in readers:
        network.arc(to_last, reader, NEVER)
        network.arc(reader, to_first, NEVER)


def judged(operations: Sequence[Operation], tensors: Sequence[Tensor], last: Collection[str]) -> Assignment:
    """What a given choice turns and costs."""
    made = {name: operation.name in last for operation in operations for name in operation.makes}
    readers = _readers(operations)
    turned = set()
    for tensor in tensors:
        is_last = made[tensor.name] if tensor.origin is None else tensor.origin is Layout.LAST
        read = {name in last for name in readers.get(tensor.name, ())}
        read |= {layout is Layout.LAST for layout in tensor.needed}
        if (not is_last) in read:
            turned.add(tensor.name)
    cost = sum(tensor.weight for tensor in tensors if tensor.name in turned)
    cost += sum(operation.gain for operation in operations if operation.name not in last)
    return Assignment(frozenset(last), frozenset(turned), cost)


def _readers(operations: Iterable[Operation]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for operation in operations:
        for name in dict.fromkeys(operation.reads):
            found.setdefault(name, []).append(operation.name)
    return found
