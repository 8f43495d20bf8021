"""L0: the documented limits of kernels that verification may not be able to run, because an emulation would hide them.

Sources: the schemas and kernels of onnxruntime 1.30 and 1.31 (contrib operators), read or measured as the references say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from .definitions import MICROSOFT, Key, key
from .inference import infer_types
from .kernels import operator_name
from .protos import TensorType, attributes, walk

_MOST_CHANNELS = 512  # of one group: the channel block of the CUDA kernel
_NO_KERNEL = "has no kernel there"


@dataclass(frozen=True, slots=True)
class _Site:
    """A node with what is known about its inputs."""

    node: NodeProto
    types: Mapping[str, TensorType]

    def given(self, slot: int) -> TensorType | None:
        """Type of an input; None where it is absent or unknown."""
        return self.types.get(self.node.input[slot]) if len(self.node.input) > slot else None

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes by name."""
        return attributes(self.node)


Limit = Callable[[_Site], Iterator[str]]


def _rank_4(site: _Site) -> Iterator[str]:
    x = site.given(0)
    if x is not None and x.rank not in (None, 4):
        yield f"takes rank 4 only, not {x.rank}"


def _channels_last(site: _Site) -> Iterator[str]:
    if not site.attrs.get("channels_last", 1):
        yield "takes channels_last=1 only"


def _single_parameters(site: _Site) -> Iterator[str]:
    for slot in (1, 2):
        found = site.given(slot)
        if found is not None and found.elem != TensorProto.FLOAT:
            name = TensorProto.DataType.Name(found.elem)
            yield f"takes float32 gamma and beta only, input {slot} is {name}"


def _vectors(site: _Site, slots: tuple[int, ...]) -> Iterator[str]:
    for slot in slots:
        found = site.given(slot)
        if found is not None and found.rank not in (None, 1):
            yield f"takes parameters of rank 1 only, input {slot} has {found.rank}"


def _group_vectors(site: _Site) -> Iterator[str]:
    yield from _vectors(site, (1, 2))


def _activation(site: _Site) -> Iterator[str]:
    if site.attrs.get("activation") not in (0, 1):
        yield f"takes activation 0 or 1, not {site.attrs.get('activation')}"


def _divisible(site: _Site) -> Iterator[str]:
    channels, groups = _channels(site)
    if channels is not None and channels % groups:
        yield f"takes no {channels} channels in {groups} groups"


def _cuda_block(site: _Site) -> Iterator[str]:
    channels, groups = _channels(site)
    if channels is None or channels % groups:
        return
    if channels // groups % 2:
        yield f"takes an even number of channels per group only, C/G = {channels // groups} is odd"
    if channels // groups > _MOST_CHANNELS:
        yield f"takes at most {_MOST_CHANNELS} channels per group, not {channels // groups}"


def _channels(site: _Site) -> tuple[int | None, int]:
    gamma = site.given(1)
    return (None if gamma is None else gamma.dim(0)), max(1, int(site.attrs.get("groups", 1)))


def _skip(site: _Site) -> Iterator[str]:
    x = site.given(0)
    if x is None:
        return
    if x.rank not in (None, 2, 3):
        yield f"takes rank 2 or 3 only, not {x.rank}"
    if x.elem == TensorProto.DOUBLE:
        yield "takes no float64"
    yield from _vectors(site, (2,))
    for slot in range(1, len(site.node.input)):
        found = site.given(slot)
        if found is not None and found.elem != x.elem:
            yield f"takes one type only, input {slot} is {TensorProto.DataType.Name(found.elem)}"


def _half_or_single(site: _Site) -> Iterator[str]:
    x = site.given(0)
    if x is not None and x.elem not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        yield f"takes no {TensorProto.DataType.Name(x.elem)}"


def _exact_scale(site: _Site) -> Iterator[str]:
    """The CUDA kernel of LayerNormalization does not broadcast its scale."""
    x, scale = site.given(0), site.given(1)
    if x is None or x.dims is None or scale is None or scale.dims is None or x.rank is None:
        return
    normalised = x.dims[int(site.attrs.get("axis", -1)) % x.rank :]
    known = all(isinstance(dim, int) for dim in (*normalised, *scale.dims))
    if len(scale.dims) != len(normalised) or (known and scale.dims != normalised):
        yield f"takes a scale of the normalised shape {list(normalised)} only, not {list(scale.dims)}"


def _nowhere(_: _Site) -> Iterator[str]:
    yield _NO_KERNEL


_GROUP: Key = (MICROSOFT, "GroupNorm")
_SKIP_GROUP: Key = (MICROSOFT, "SkipGroupNorm")
_CUDA_GROUP: tuple[Limit, ...] = (
    _rank_4, _channels_last, _half_or_single, _single_parameters, _group_vectors, _activation, _divisible, _cuda_block,
)  # fmt: skip
_RESIDUAL: dict[Key, tuple[Limit, ...]] = {
    (MICROSOFT, "SkipLayerNormalization"): (_skip,),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): (_skip,),
}
_CONTRIB: tuple[Key, ...] = (_GROUP, _SKIP_GROUP, (MICROSOFT, "NhwcConv"), *_RESIDUAL)

LIMITS: dict[str, dict[Key, tuple[Limit, ...]]] = {
    "ort-cpu": {
        **_RESIDUAL, _GROUP: (_nowhere,), _SKIP_GROUP: (_nowhere,), (MICROSOFT, "NhwcConv"): (_nowhere,),
    },
    "ort-cuda": {
        **_RESIDUAL, _GROUP: _CUDA_GROUP, _SKIP_GROUP: _CUDA_GROUP, ("", "LayerNormalization"): (_exact_scale,),
        (MICROSOFT, "NhwcConv"): (_rank_4, _half_or_single),
    },
    "directml": {
        **_RESIDUAL, _GROUP: (_rank_4, _half_or_single, _group_vectors, _activation, _divisible), _SKIP_GROUP: (_nowhere,),
    },
    "tensorrt": dict.fromkeys(_CONTRIB, (_nowhere,)),
}  # fmt: skip


def broken_limits(original: onnx.ModelProto, candidate: onnx.ModelProto, target: str) -> list[str]:
    """Return which limits of the target's kernels the candidate breaks, one sentence each; those it inherits do not count.

    A node of the original that has the same outputs and breaks the same limit is the author's. A target without an entry
    (a portable model, say) has no kernels to speak of.
    """
    limits = LIMITS.get(target)
    if not limits or not any(key(node) in limits for node in walk(candidate.graph)):
        return []
    inherited = set(_broken(original, limits))
    return [
        f"{operator_name(node)} {node.name or node.output[0]!r} {text} ({target})"
        for (outputs, text), node in _broken(candidate, limits).items()
        if (outputs, text) not in inherited
    ]


def _broken(
    model: onnx.ModelProto, limits: Mapping[Key, tuple[Limit, ...]]
) -> dict[tuple[tuple[str, ...], str], NodeProto]:
    types = infer_types(model, {})
    return {
        (tuple(node.output), text): node
        for node in walk(model.graph)
        for limit in limits.get(key(node), ())
        for text in limit(_Site(node, types))
    }
