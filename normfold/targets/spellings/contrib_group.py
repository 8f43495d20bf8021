"""com.microsoft.GroupNorm and SkipGroupNorm: images, SiLU inside, parameters `[C]`."""

from __future__ import annotations

from normfold.model.dtypes import FLOAT
from normfold.targets.facts import Support
from normfold.targets.lowering import MICROSOFT, SUM, Given
from normfold.targets.reasons import Cannot
from normfold.targets.site import Affine, Site


def build(site: Site) -> str:
    """com.microsoft.GroupNorm, between Transposes where the kernel wants the channels last and they are not.

    Raises:
        Cannot: it is no GroupNorm of an image, or the kernel does not take its groups.
    """
    layout = _layout(site, "GroupNorm")
    return layout.write(layout.inward(site.read()))


def with_addition(site: Site) -> str:
    """com.microsoft.SkipGroupNorm: the addition of an embedding `[N, C, 1, 1]`, or of a residual that has the channels last.

    Raises:
        Cannot: as for `build`; or there is no such addition.
    """
    layout = _layout(site, "SkipGroupNorm")
    if site.data_type != site.norm.input_type:
        raise Cannot("element-type", "the norm computes in a wider type than the addition in front of it")
    if site.around.embedding is not None and site.around.embedded is not None and not layout.is_last:
        return _embedded(site, layout, site.around.embedded, site.around.embedding)
    residual = site.around.residual
    if residual is None or not layout.is_last:
        raise Cannot(
            "surroundings", "no embedding [N, C, 1, 1], nor a residual with the channels last, is added in front"
        )
    addend = "" if residual.bias is None else site.constant("addend", residual.bias.reshape(-1))
    site.draft.takes_residual = True
    others = (SUM,) if residual.is_read else ()
    return layout.write(Given(residual.left), Given(residual.right), addend, others=others)


def _embedded(site: Site, layout: _Layout, value: str, embedding: str) -> str:
    shape = site.draft.integers("shape", [0, layout.channels])
    skip = site.op("Reshape", Given(embedding), shape)
    site.draft.takes_embedding = True
    return layout.write(layout.inward(Given(value)), skip)


class _Layout:
    """A GroupNorm of an image that the kernel takes: what it is called with, and which Transposes stand around it."""

    def __init__(self, site: Site, operator: str, support: Support, groups: int, channel: int) -> None:
        self.site = site
        self.operator = operator
        self.groups = groups
        self.is_last = channel == site.norm.rank - 1
        self.turns = not self.is_last and not support.channels_first
        self.channels = site.extents((channel,), "the scale")[0]
        self.inner, self.outer = site.split((channel,))
        self.parameter_type = FLOAT if support.wide_parameters else site.data_type

    def inward(self, value: str) -> str:
        """What is normalised, in the layout of the kernel."""
        if not self.turns:
            return value
        self.site.draft.channels_last = True
        return self.site.op("Transpose", value, perm=[0, 2, 3, 1])

    def write(self, *inputs: str, others: tuple[str, ...] = ()) -> str:
        """The node between what it normalises and what is left of the affine."""
        site, data, skips = self.site, inputs[:1], inputs[1:]
        affine: Affine = self.inner
        parameters = (
            site.per_channel("scale", affine.gamma, self.channels, 1.0, self.parameter_type),
            site.per_channel("bias", affine.beta, self.channels, 0.0, self.parameter_type),
        )
        silu = self._takes_silu()
        site.draft.takes_silu = silu
        core = site.op(
            self.operator,
            *(*data, *parameters, *skips),
            domain=MICROSOFT,
            others=others,
            activation=int(silu),
            channels_last=int(self.is_last or self.turns),
            epsilon=site.epsilon(),
            groups=self.groups,
        )
        core = site.op("Transpose", core, perm=[0, 3, 1, 2]) if self.turns else core
        return site.apply(core, self.outer)

    def _takes_silu(self) -> bool:
        """The activation is the operator's where nothing stands between the two, no Cast either."""
        site = self.site
        ends_here = self.outer.gamma is None and self.outer.beta is None
        return site.around.silu and ends_here and site.data_type == site.norm.output_type


def _layout(site: Site, operator: str) -> _Layout:
    norm, support = site.norm, site.support(operator, MICROSOFT)
    if norm.rank != 4:
        raise Cannot("rank", f"{operator} takes images [N, C, H, W], this norm has rank {norm.rank}")
    if not norm.centred:
        raise Cannot("axes", f"{operator} subtracts the mean, this norm does not")
    channel, groups = _channel(site, operator)
    layout = _Layout(site, operator, support, groups, channel)
    size = layout.channels // groups
    if support.even_groups and size % 2:
        raise Cannot("groups", f"C/G = {size} is odd: {operator} reads channels in pairs")
    if support.largest_group is not None and size > support.largest_group:
        raise Cannot("groups", f"C/G = {size} is more than {support.largest_group}, the largest block of {operator}")
    return layout


def _channel(site: Site, operator: str) -> tuple[int, int]:
    """Which dimension has the channels, and the number of groups; one group where the whole sample is normalised."""
    norm = site.norm
    if norm.groups is None and norm.axes == (1, 2, 3):
        return (1 if _varies_along(site, 1) or not _varies_along(site, 3) else 3), 1
    for channel, axes in ((1, (2, 3)), (3, (1, 2))):
        if norm.groups is not None and norm.channel == channel and norm.axes == axes:
            return channel, norm.groups
    raise Cannot("axes", f"{operator} normalises groups of channels of an image, this norm is over {list(norm.axes)}")


def _varies_along(site: Site, axis: int) -> bool:
    return any(p is not None and p.shape[axis] > 1 for p in (site.norm.gamma, site.norm.beta))
