"""Parallel linear branches whose results are added become one operator: RepVGG, MobileOne and kin.

    Conv_W1(x) + Conv_W2(x) + (s·x + t) + AveragePool(x)  ->  Conv_W(x)

A tree of sums merges as a whole if all of it starts from one tensor. If something else is added in between, one branch
that is added last may join another further up: `(a(x) + z) + b(x) = (a + b)(x) + z`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from normfold.affine.algebra import uniform
from normfold.affine.draft import Draft, Merge
from normfold.affine.merge.add_convolutions import add_convolutions
from normfold.affine.merge.add_matrices import add_matrices
from normfold.affine.merge.branch import CONVOLUTION, Allowed, Branch, Summand, has_weights, summands, trace
from normfold.affine.merge.family import Family
from normfold.affine.merge.views import require_accepted
from normfold.affine.reasons import Refused
from normfold.model.graph import Node, Value

_FEWEST = 2  # branches that a merge takes


def merge_branches(draft: Draft, root: Node, allowed: Allowed, *, aggressive: bool) -> Merge | None:
    """One operator for the tree of sums that ends in `root`; None if it is no candidate.

    Args:
        draft: the edits so far.
        root: a sum, see `is_sum`.
        allowed: whether an affine node may be taken away.
        aggressive: whether parameters may grow.

    Raises:
        Refused: at least two branches start from one tensor, but they cannot be merged.
    """
    leaves, inner = summands(draft, root)
    branches = [trace(draft, leaf, allowed) for leaf in leaves]
    known = [branch for branch in branches if branch is not None]
    chosen = _common(draft, known)
    if chosen is None or len(known) != len(branches):
        return None
    data, members = chosen
    if len(members) == len(known):
        return _merged(draft, Family(root, tuple(inner), tuple(members)), aggressive=aggressive)
    family = _across(draft, root, list(zip(leaves, known, strict=True)), data)
    if family is not None:
        return _merged(draft, family, aggressive=aggressive)
    other = next(b for b in known if not any(b.value is member.value for member in members))
    raise Refused("branch", f"{other.label!r} does not start from {data.name!r} as others do", other.label)


def _merged(draft: Draft, family: Family, *, aggressive: bool) -> Merge:
    problem = next((branch.problem for branch in family.branches if branch.problem is not None), None)
    if problem is not None:
        raise problem
    build = add_convolutions if any(_is_convolution(branch) for branch in family.branches) else add_matrices
    merge = build(draft, family, aggressive=aggressive)
    require_accepted(draft, merge)
    return merge


def _across(draft: Draft, root: Node, leaves: Sequence[tuple[Summand, Branch]], data: Value) -> Family | None:
    """A branch that `root` itself adds, with one further up that can take it; None if there is none.

    With `P = V ± b` and `V = … ± a …`, `b` goes into `a` and `V` stands for `P`.
    """
    for leaf, branch in leaves:
        joining = _from(draft, branch, data)
        if joining is None or leaf.use.node is not root or len(root.inputs) != 2:
            continue
        if root.op_type == "Sub" and leaf.use.slot == 0:
            continue  # P = b - V
        for other, target in leaves:
            staying = _from(draft, target, data)
            if staying is None or other.use.node is root or staying.chain or not has_weights(draft, staying.operator):
                continue
            signed = tuple(_times(item, other.sign) for item in (staying, joining))
            onto, path = root.inputs[1 - leaf.use.slot], tuple(_path(draft, other.use.node, root))
            return Family(root, (), signed, keep=staying.operator, onto=onto, crossed=path)
    return None


def _times(branch: Branch, sign: float) -> Branch:
    return replace(branch, affine=branch.affine.then(uniform(sign, 0.0, branch.affine.rank)))


def _path(draft: Draft, node: Node, root: Node) -> Iterator[Node]:
    """The sums from `node` up to `root`, each read by the next one alone."""
    while node is not root:
        yield node
        node = next(iter(draft.uses(node.output))).node


def _is_convolution(branch: Branch) -> bool:
    return branch.operator is not None and branch.operator.op_type in CONVOLUTION


def _common(draft: Draft, branches: Sequence[Branch]) -> tuple[Value, list[Branch]] | None:
    """The tensor from which most branches start, with those; None if no two do, or none of them has weights."""
    starts = {id(v): v for v in (b.data(draft) for b in branches if has_weights(draft, b.operator))}
    counts = Counter(key for b in branches for key in {id(b.value), id(b.data(draft))} if key in starts)
    best = max(starts, key=lambda key: counts[key], default=None)
    if best is None or counts[best] < _FEWEST:
        return None
    return starts[best], [found for b in branches if (found := _from(draft, b, starts[best])) is not None]


def _from(draft: Draft, branch: Branch, start: Value) -> Branch | None:
    """How a branch starts from a tensor: through its operator, or because the tensor itself is added."""
    if branch.value is start:
        return branch.without_operator()
    return branch if branch.data(draft) is start else None
