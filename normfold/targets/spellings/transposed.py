"""A norm between two Transposes that bring it into the form that an operator takes."""

from __future__ import annotations

from collections.abc import Callable

from normfold.norm.meaning import Norm
from normfold.targets.forms import permuted
from normfold.targets.reasons import Cannot
from normfold.targets.site import Site


def between_transposes(site: Site, build: Callable[[Site], str]) -> str:
    """`build` on the transposed norm: channels to dimension 1 where they are last, else the reduced dimensions to the end.

    Raises:
        Cannot: `build` declines.
    """
    order = _order(site.norm)
    turned = permuted(site.norm, order)
    if site.norm.scale is not None or site.norm.bias is not None:
        raise Cannot("parameters", "scale or bias are computed in the graph, for the layout as it is")
    value = site.op("Transpose", site.read(), perm=list(order))
    result = build(site.within(turned, value))
    site.draft.channels_last = True
    back = [order.index(axis) for axis in range(len(order))]
    return site.op("Transpose", result, perm=back)


def _order(norm: Norm) -> tuple[int, ...]:
    """The permutation; the dimensions keep their order otherwise, so that data moves in the longest possible runs."""
    rank = norm.rank
    if norm.rank > 2 and norm.axes == tuple(range(1, rank - 1)) and norm.centred:
        return (0, rank - 1, *range(1, rank - 1))
    return (*(axis for axis in range(rank) if axis not in norm.axes), *norm.axes)
