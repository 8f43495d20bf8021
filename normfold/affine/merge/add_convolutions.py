"""A sum of Conv, AveragePool and the tensor itself is one Conv.

Every kernel is embedded at its offset in the smallest one that holds them all; x itself is the kernel
`W[o, o mod (Cin/g)] = s[o]` with one tap, an AveragePool the same with `1/Πk` at each of its taps. Weights add, biases add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from normfold.affine.change import require_range
from normfold.affine.draft import Draft, Merge
from normfold.affine.merge.branch import CONVOLUTION, Branch, total
from normfold.affine.merge.family import Family, bias_size
from normfold.affine.merge.views import Convolution, bias_affine, computed, convolution, replaced, require_worth
from normfold.affine.merge.weights import Diagonal, Kernel, summed
from normfold.affine.reasons import Refused
from normfold.affine.window import Window, hull, offsets, point, pooling_window, window_attributes
from normfold.model.graph import Node
from normfold.model.tensors import Float64


def add_convolutions(draft: Draft, family: Family, *, aggressive: bool) -> Merge:
    """One Conv for Conv, AveragePool and the tensor itself.

    Raises:
        Refused: they do not fit together, or the sum would cost more.
    """
    convs = {
        id(branch): convolution(draft, node, total(draft, branch))
        for branch in family.branches
        if (node := _conv(branch)) is not None
    }
    first = next(iter(convs.values()))
    windows = [convs[id(b)].window if id(b) in convs else _window(draft, b, first) for b in family.branches]
    _require_alike(list(convs.values()), family.branches, convs)
    target = hull(windows, [branch.label for branch in family.branches])
    parts = [_part(draft, b, w, target, convs.get(id(b)), first) for b, w in zip(family.branches, windows, strict=True)]
    bias = np.sum([part[1] for part in parts], axis=0)
    dims = (first.outs, first.ins // first.group, *target.kernel)
    kept = _kept(family, list(convs.values()), target)
    passing = sum(bias_size(part[1]) for part in parts if isinstance(part[0], Diagonal))
    before = sum(c.parameters for c in convs.values()) + passing
    growth = require_worth(before, math.prod(dims) + bias_size(bias), kept.node, aggressive=aggressive)
    terms = [part[0] for part in parts]
    weight = computed(lambda: summed(terms, dims), list(convs.values()), dims)
    return family.merge(
        kept.node,
        parameters=replaced(kept.node, weight, first.outs),
        affine=bias_affine(bias, len(dims), 1),
        attributes=window_attributes(kept.window, target),
        growth=growth,
    )


def _kept(family: Family, convs: Sequence[Convolution], target: Window) -> Convolution:
    """The Conv that must stay, else one that has the window already."""
    if family.keep is not None:
        return next(conv for conv in convs if conv.node is family.keep)
    return next((conv for conv in convs if conv.window == target), convs[0])


def _conv(branch: Branch) -> Node | None:
    """The Conv of a branch; None for an AveragePool and for the tensor itself."""
    node = branch.operator
    if node is not None and node.op_type not in CONVOLUTION:
        raise Refused("geometry", f"{node.op_type} {node.label!r} cannot be added to a Conv", node.label)
    return None if node is None or node.op_type != "Conv" else node


def _window(draft: Draft, branch: Branch, first: Convolution) -> Window:
    return point(len(first.window.kernel)) if branch.operator is None else pooling_window(draft, branch.operator)


def _require_alike(convs: Sequence[Convolution], branches: Sequence[Branch], known: dict[int, Convolution]) -> None:
    """One group, one number of outputs, and as many inputs where channels pass as they are.

    Raises:
        Refused: `geometry`.
    """
    first = convs[0]
    for other in convs:
        if (other.group, other.outs, other.ins) != (first.group, first.outs, first.ins):
            raise Refused("geometry", f"{other.node.label!r} has other channels or groups", other.node.label)
    passing = next((branch for branch in branches if id(branch) not in known), None)
    if passing is not None and first.ins != first.outs:
        raise Refused("geometry", f"{passing.label!r} has {first.ins} channels, not {first.outs}", passing.label)


def _part(
    draft: Draft, branch: Branch, window: Window, target: Window, conv: Convolution | None, first: Convolution
) -> tuple[Kernel | Diagonal, Float64]:
    """Kernel and bias of one branch."""
    offset = offsets(window, target)
    if conv is not None:
        return Kernel(conv.weight, conv.scale, offset), conv.bias
    affine = total(draft, branch)
    require_range(affine, first.weight.data_type, first.node)
    scale, shift = affine.vectors(1, first.outs)
    return Diagonal(scale / math.prod(window.kernel), offset, window.kernel), shift
