"""Reading a graph backward: what a sum adds up, and which linear operator with which affine stands in each summand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from normfold.affine.algebra import Affine, uniform
from normfold.affine.draft import Draft
from normfold.affine.reasons import Refused
from normfold.affine.recognise import AffineNode, has_constant_operand, is_candidate, read
from normfold.affine.search import require_private
from normfold.model import attributes
from normfold.model.graph import Node, Use, Value

SUMS = ("Add", "Sub", "Sum")
CONVOLUTION = ("Conv", "AveragePool")
DENSE = ("MatMul", "Gemm")
WEIGHTED = ("Conv", *DENSE)

# More summands than this come from no network; the bound keeps planning linear in the model.
LARGEST_SUM = 64
_LONGEST_CHAIN = 64
_NUMPY_BROADCAST = 7

Allowed = Callable[[Node], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """`affine(operator(data))`, or `affine(data)` without an operator.

    Args:
        operator: a Conv, AveragePool, MatMul or Gemm.
        value: what the chain of affines starts from: the operator's output, or the data itself.
        affine: the chain, in float64; what the operator's own slot has collected is not in it.
        chain: the affine nodes, and Identities between them.
        problem: why the operator cannot be merged whatever stands beside it: somebody else sees its output.
    """

    operator: Node | None
    value: Value
    affine: Affine
    chain: tuple[Node, ...]
    problem: Refused | None = None

    def data(self, draft: Draft) -> Value:
        """What the operator reads."""
        first = None if self.operator is None else self.operator.input(0)
        return self.value if first is None else draft.root(first)

    def without_operator(self) -> Branch:
        """The same summand, with the operator's output as data."""
        return Branch(None, self.value, self.affine, self.chain)

    @property
    def label(self) -> str:
        """What people call it."""
        return self.value.name if self.operator is None else self.operator.label

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that are only there for this summand."""
        return self.chain if self.operator is None else (*self.chain, self.operator)


def is_sum(draft: Draft, node: Node) -> bool:
    """Whether a node adds several tensors that depend on data, by the rules of numpy."""
    if node.domain or node.op_type not in SUMS or len(node.inputs) < 2 or not node.outputs or node.outputs[0] is None:
        return False
    if node.scope.version < _NUMPY_BROADCAST and node.op_type != "Sum":
        return False
    if attributes.unexpected(node, ()):
        return False
    return all(value is not None and draft.constants.get(value) is None for value in node.inputs)


@dataclass(frozen=True, slots=True)
class Summand:
    """A reading of a tensor inside a tree of sums, and its sign."""

    use: Use
    sign: float


def summands(draft: Draft, root: Node) -> tuple[list[Summand], list[Node]]:
    """The leaves of the tree of sums under `root`, in order, and the sums inside of it."""
    leaves: list[Summand] = []
    inner: list[Node] = []
    pending = list(_operands(root, 1.0))[::-1]
    while pending:
        item = pending.pop()
        node = _producer(draft, item.use)
        if node is not None and len(leaves) + len(pending) < LARGEST_SUM and _is_inner(draft, item.use, node):
            inner.append(node)
            pending += list(_operands(node, item.sign))[::-1]
        else:
            leaves.append(item)
    return leaves, inner


def _is_inner(draft: Draft, use: Use, node: Node) -> bool:
    """Whether what `use` reads is a sum that nobody else sees, of not too many summands."""
    return len(node.inputs) <= LARGEST_SUM and is_sum(draft, node) and _is_private(draft, use)


def _operands(node: Node, sign: float) -> Iterator[Summand]:
    for slot in range(len(node.inputs)):
        yield Summand(Use(node, slot), -sign if node.op_type == "Sub" and slot else sign)


def _read(draft: Draft, use: Use) -> Value:
    value = use.node.inputs[use.slot]
    assert value is not None
    return draft.root(value)


def _producer(draft: Draft, use: Use) -> Node | None:
    """The operator whose first output is read, None where it belongs to another domain or scope."""
    value = _read(draft, use)
    node = value.producer
    if node is None or node.domain or value.output_slot or value.scope is not use.node.scope:
        return None
    return node


def require_unseen(draft: Draft, use: Use) -> None:
    """Nobody but `use` sees a tensor, not even its dimensions.

    Raises:
        Refused: `graph-output`, `captured`, `shared`.
    """
    value = _read(draft, use)
    require_private(draft, value, use.node)
    if len(draft.uses(value)) > 1:
        raise Refused("shared", f"the dimensions of {value.name!r} are in use")


def _is_private(draft: Draft, use: Use) -> bool:
    try:
        require_unseen(draft, use)
    except Refused:
        return False
    return True


def trace(draft: Draft, summand: Summand, allowed: Allowed) -> Branch | None:
    """The branch behind a reading; None if its rank is not known, or if nothing is read there.

    Args:
        summand: the reading.
        allowed: whether an affine node may be taken away.
    """
    value = summand.use.node.input(summand.use.slot)
    rank = None if value is None else draft.shapes.rank(value)
    if rank is None:
        return None
    affine, use = uniform(summand.sign, 0.0, rank), summand.use
    chain: list[Node] = []
    while len(chain) < _LONGEST_CHAIN:
        step = _step(draft, use, allowed)
        if step is None:
            break
        affine = step.affine.then(affine)
        chain.append(step.node)
        use = Use(step.node, next(slot for slot, value in enumerate(step.node.inputs) if value is step.data))
    return _branch(draft, use, affine, tuple(chain))


def _step(draft: Draft, use: Use, allowed: Allowed) -> AffineNode | None:
    """The affine node that makes what is read, if nothing else reads it."""
    node = _producer(draft, use)
    if node is None or not allowed(node) or not _is_private(draft, use):
        return None
    if node.op_type == "Identity":
        return _identity(draft, node)
    if not is_candidate(node) or not has_constant_operand(draft, node):
        return None
    try:
        return read(draft, node)
    except Refused:
        return None


def _identity(draft: Draft, node: Node) -> AffineNode | None:
    data = node.input(0)
    rank = None if data is None else draft.shapes.rank(data)
    return None if data is None or rank is None else AffineNode(node, data, uniform(1.0, 0.0, rank))


def _branch(draft: Draft, use: Use, affine: Affine, chain: tuple[Node, ...]) -> Branch:
    value, node = _read(draft, use), _producer(draft, use)
    if node is None or node.op_type not in (*CONVOLUTION, *DENSE):
        return Branch(None, value, affine, chain)
    try:
        require_unseen(draft, use)
    except Refused as reason:
        return Branch(node, value, affine, chain, reason)
    return Branch(node, value, affine, chain)


def total(draft: Draft, branch: Branch) -> Affine:
    """Everything behind the operator, what its slot has collected included."""
    pending = None if branch.operator is None else draft.pending(branch.operator)
    return branch.affine if pending is None else pending.then(branch.affine)


def has_weights(draft: Draft, node: Node | None) -> bool:
    """Whether a standard operator is linear with a constant weight on its right."""
    if node is None or node.op_type not in WEIGHTED:
        return False
    return draft.constants.get(node.input(1)) is not None and draft.constants.get(node.input(0)) is None
