"""The choice of layouts is the cheapest one: held against trying all of them."""

from __future__ import annotations

from itertools import chain, combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from normfold.surgery.layout.cut import Network
from normfold.surgery.layout.problem import Assignment, Layout, Operation, Tensor, assign, judged

FIRST, LAST = Layout.FIRST, Layout.LAST
OUTSIDE = frozenset((FIRST,))


def best(operations: list[Operation], tensors: list[Tensor]) -> Assignment:
    names = [operation.name for operation in operations]
    subsets = chain.from_iterable(combinations(names, count) for count in range(len(names) + 1))
    return min((judged(operations, tensors, set(chosen)) for chosen in subsets), key=lambda a: (a.cost, len(a.last)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Operation], list[Tensor]]:
    operations: list[Operation] = []
    origins = {f"i{index}": draw(st.sampled_from([FIRST, LAST])) for index in range(draw(st.integers(1, 2)))}
    names = list(origins)
    for index in range(draw(st.integers(1, 7))):
        reads = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        makes = [f"t{index}.{part}" for part in range(draw(st.integers(1, 2)))]
        operations.append(Operation(f"o{index}", tuple(reads), tuple(makes), draw(st.sampled_from([0, 0, 3, 8]))))
        names += makes
    needs = st.frozensets(st.sampled_from([FIRST, LAST]), max_size=2)
    return operations, [Tensor(name, draw(st.integers(1, 6)), origins.get(name), draw(needs)) for name in names]


@settings(max_examples=300)
@given(problems())
def test_nothing_is_cheaper(problem: tuple[list[Operation], list[Tensor]]) -> None:
    operations, tensors = problem
    found, wanted = assign(operations, tensors), best(operations, tensors)
    assert found.cost == wanted.cost
    assert len(found.last) == len(wanted.last)


def chain_of(gains: list[int], weight: int = 10) -> tuple[list[Operation], list[Tensor]]:
    operations = [Operation(f"o{i}", (f"t{i}",), (f"t{i + 1}",), gain) for i, gain in enumerate(gains)]
    tensors = [Tensor(f"t{i}", weight) for i in range(1, len(gains))]
    ends = [Tensor("t0", weight, FIRST), Tensor(f"t{len(gains)}", weight, None, OUTSIDE)]
    return operations, [*tensors, *ends]


def test_two_edges_have_to_pay() -> None:
    assert assign(*chain_of([0, 19, 0])).last == frozenset()
    assert assign(*chain_of([0, 20, 0])).last == frozenset(), "what gains nothing changes nothing"
    assert assign(*chain_of([0, 21, 0])).last == {"o1"}
    assert assign(*chain_of([0, 11, 0, 11, 0])).last == {"o1", "o2", "o3"}


def test_edges_lie_where_they_are_cheap() -> None:
    operations, tensors = chain_of([0, 15, 0])
    small = [Tensor(t.name, 1 if t.name in ("t0", "t3") else t.weight, t.origin, t.needed) for t in tensors]
    found = assign(operations, small)
    assert found.last == {"o0", "o1", "o2"}
    assert found.turned == {"t0", "t3"}
    assert found.cost == 2


def test_one_transpose_serves_all_readers() -> None:
    operations = [Operation(f"o{i}", ("x",), (f"y{i}",), 6) for i in range(3)]
    tensors = [Tensor("x", 10, FIRST), *(Tensor(f"y{i}", 1, None, OUTSIDE) for i in range(3))]
    assert assign(operations, tensors) == Assignment(
        frozenset({"o0", "o1", "o2"}), frozenset({"x", "y0", "y1", "y2"}), 13
    )


def test_data_that_is_channels_last_already_stays_so() -> None:
    operations = [Operation("o", ("x",), ("y",))]
    tensors = [Tensor("x", 5, LAST), Tensor("y", 5, None, frozenset((LAST,)))]
    assert assign(operations, tensors) == Assignment(frozenset({"o"}), frozenset(), 0)


def test_the_order_of_the_description_does_not_matter() -> None:
    operations, tensors = chain_of([0, 15, 0, 0, 9, 3])
    forward, backward = assign(operations, tensors), assign(operations[::-1], tensors[::-1])
    assert forward == backward


def test_large_networks_need_no_stack() -> None:
    assert assign(*chain_of([3] * 5000)).last == {f"o{i}" for i in range(5000)}


def test_a_cut_of_a_known_network() -> None:
    network = Network()
    nodes = [network.node() for _ in range(6)]
    for tail, head, capacity in (
        (0, 1, 16), (0, 2, 13), (1, 3, 12), (2, 1, 4), (2, 4, 14), (3, 2, 9), (3, 5, 20), (4, 3, 7), (4, 5, 4),
    ):  # fmt: skip
        network.arc(tail, head, capacity)
    assert network.sink_side(nodes[0], nodes[5]) == {3, 5}
