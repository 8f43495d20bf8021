"""Reshapes that bring what is normalised together to the last dimension, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from normfold.norm.meaning import Norm
from normfold.targets.reasons import Cannot
from normfold.targets.site import Site, require_moderate


@dataclass(frozen=True, slots=True, eq=False)
class Grouped:
    """`x` in a shape that differs from `channel` on: `[..., G, K]`, the K elements of each group normalised together.

    Args:
        value: the reshaped tensor.
        rank: its rank.
        groups: G.
        size: K, None where it is not known.
        channel: the dimension of `x` from which on it is reshaped.
        site: the attempt on `x` itself, which `value` was made from.
    """

    value: str
    rank: int
    groups: int
    size: int | None
    channel: int
    site: Site

    def back(self, value: str) -> str:
        """A tensor of the shape of `value` in the shape of `x`."""
        site = self.site
        dims = site.norm.dims[self.channel :]
        unknown = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
        if len(unknown) <= 1:
            shape = site.draft.integers("shape", [0] * self.channel + [d if isinstance(d, int) else -1 for d in dims])
        else:
            assert site.value is not None
            shape = site.op("Shape", site.value)
        return site.op("Reshape", value, shape, rank=self.rank)


def first_grouped(norm: Norm) -> tuple[int, int | None]:
    """The dimension at which the groups begin, and their number; None where the extent of that dimension would say it.

    Raises:
        Cannot: what is normalised together does not lie together.
    """
    if norm.groups is not None and norm.channel is not None:
        if norm.axes == tuple(range(norm.channel + 1, norm.rank)):
            return norm.channel, norm.groups
    elif norm.is_suffix and norm.axes and norm.axes[0] > 0:
        if norm.axes[0] == 1:
            return 1, 1
        channel = norm.axes[0] - 1
        dim = norm.dims[channel]
        return channel, dim if isinstance(dim, int) else None
    raise Cannot("axes", f"the elements over {_over(norm)} do not lie together")


def grouped(site: Site) -> Grouped:
    """Reshape `x` to `[..., G, K]`; K is written out where it is known, so that an empty batch stays possible.

    Raises:
        Cannot: what is normalised together does not lie together, or the extents do not say how many groups there are.
    """
    norm = site.norm
    channel, groups = first_grouped(norm)
    if groups is None:
        raise Cannot("static-shape", f"the extent of dimension {channel} is not known, and the Reshape needs it")
    require_moderate((groups,), "the scale of the groups")
    total = _elements(norm, channel)
    size = None if total is None else total // groups
    value = site.read()
    shape = site.draft.integers("shape", [0] * channel + [groups, -1 if size is None else size])
    source = replace(site, value=value)
    return Grouped(site.op("Reshape", value, shape), channel + 2, groups, size, channel, source)


def image(site: Site, channels: int) -> Grouped:
    """`[N, C, *spatial]` as `[N, C, K, 1]`, for kernels that take images only.

    Raises:
        Cannot: K is no extent that a tensor can have.
    """
    size = _elements(site.norm, 2)
    value = site.read()
    shape = site.draft.integers("shape", [0, channels, -1 if size is None else size, 1])
    return Grouped(site.op("Reshape", value, shape), 4, channels, size, 1, replace(site, value=value))


def _elements(norm: Norm, first: int) -> int | None:
    """Elements over the dimensions from `first` on, None where an extent is not known.

    Raises:
        Cannot: no tensor has so many.
    """
    total = 1
    for dim in norm.dims[first:]:
        if not isinstance(dim, int):
            return None
        total *= dim
    if total >= 1 << 63:
        raise Cannot("constant-size", f"a tensor of {total} elements cannot be")
    return total


def known_size(group: Grouped) -> int:
    """K.

    Raises:
        Cannot: it is not known, or too large for a scale.
    """
    if group.size is None:
        raise Cannot("static-shape", "the number of elements of a group is not known, and the scale needs it")
    require_moderate((group.size,), "the scale")
    return group.size


def _over(norm: Norm) -> str:
    cut = f", and groups of dimension {norm.channel}" if norm.groups is not None else ""
    return f"dimensions {list(norm.axes)}{cut}"
