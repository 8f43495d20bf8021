"""Inputs for regions: shapes for what is free, normal values, and values that break careless arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from .inference import infer_types
from .limits import BYTES_PER_ELEMENT, system_memory
from .norm_regions import epsilons, is_lossy, normalises
from .protos import FLOATS, TensorType, attributes, free_inputs, tensor_type, to_elem
from .ranges import Meaning, draw, meanings
from .spatial import any_size
from .verdicts import Array

Shape = tuple[int, ...]
_BATCHES = (2, 1, 3, 2, 1)  # the last two variants are for small trials of large regions
_PRIMES = ((7, 11, 5, 3), (5, 3, 7, 11), (13, 9, 11, 7), (3, 3, 5, 3), (3, 5, 3, 5))  # per trial; never square, and odd
_LARGE = 1 << 13  # elements: larger inputs get one trial at the declared size, or the short plan
_LIGHT_PLAN = (
    "normal", "normal", "normal", "mixed-space", "mixed-channel", "offset", "tiny", "huge", "zero", "subnormal",
    "one-hot", "constant",
)  # fmt: skip
_SMALL_PLAN = ("normal", "normal", "mixed-space", "mixed-channel", "one-hot")
_HEAVY_PLAN = ("normal", "mixed-space", "mixed-channel")
# A norm shows a wrong epsilon where the variance is near it, a wrong mean where the mean is large, and wrong axes where
# rows differ. The condition of the last hides all other mistakes, so the others come first.
_NORM_PLAN = ("rows", "epsilon", "epsilon-wide", "ill")
_HALF_PLAN = ("overflow",)
_DEGENERATE = ("mixed-space", "mixed-channel", "tiny", "zero", "subnormal", "constant")  # 0/0 where nothing is added
_TAME = ("normal", *_NORM_PLAN, *_HALF_PLAN)
_USUAL_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class NormInputs:
    """What a region that normalises is tried with.

    Args:
        epsilon: the smallest that it adds.
        guarded: whether it adds one at all.
        lossy: whether a kernel of the rewrite is known to take the variance in one pass.
    """

    epsilon: float
    guarded: bool
    lossy: bool


class InputsError(Exception):
    """No inputs can be made; the text says why."""


@dataclass(frozen=True, slots=True)
class RegionTrial:
    """Feeds of one trial, with the kind of values, the seed and the shapes they were drawn with."""

    kind: str
    seed: int
    shapes: Mapping[str, Shape]
    feeds: Mapping[str, Array]

    @property
    def hostile(self) -> bool:
        """Whether intermediate values may leave the range on one side only."""
        return self.kind not in _TAME


@dataclass(frozen=True, slots=True)
class RegionInputs:
    """The inputs of one region: types, dims per trial variant, meanings of integer inputs, size of the largest.

    `norm` is there for a region that normalises.
    `small` are shapes for all trials but the first, where a region works at any spatial size but declares a large one.
    """

    types: Mapping[str, TensorType]
    shapes: tuple[Mapping[str, Shape], ...]
    meaning: Mapping[str, Meaning]
    elements: int
    small: tuple[Mapping[str, Shape], ...] = ()
    rescaled: bool = False
    norm: NormInputs | None = None

    def plan(self, trials: int) -> tuple[str, ...]:
        """Return the kinds of values to try, `trials` of them normal for a region of ordinary size."""
        if self.elements > _LARGE:
            plan: tuple[str, ...] = _SMALL_PLAN if self.small else _HEAVY_PLAN
        else:
            plan = ("normal",) * max(1, trials) + _LIGHT_PLAN[3:]
        if self.norm is None:
            return plan
        half = any(found.elem == onnx.TensorProto.FLOAT16 for found in self.types.values())
        kept = plan if self.norm.guarded else tuple(kind for kind in plan if kind not in _DEGENERATE)
        return (*kept, *_NORM_PLAN, *(_HALF_PLAN if half else ()))

    def trial(self, number: int, kind: str, seed: int, salt: int) -> RegionTrial:
        """Draw trial `number`; `salt` keeps regions of one batch from sharing their values."""
        choice = self.small if self.small and number else self.shapes
        shapes = choice[number % len(choice)]
        rng = np.random.default_rng([abs(seed) + number, salt])
        feeds = {name: self._draw(rng, name, shapes[name], kind) for name in self.types}
        return RegionTrial(kind, seed + number, shapes, feeds)

    def rescalings(self) -> Iterator[RegionInputs]:
        """Yield versions in which some inputs have two or four times the free spatial size of others.

        A region between a pooling and a resize has inputs of different sizes, and its types rarely say so.
        """
        names = list(self.types)
        powers = [{name: 2 ** (i if up else len(names) - 1 - i) for i, name in enumerate(names)} for up in (1, 0)]
        for factors in [*({name: by} for by in (2, 4) for name in names), *powers] if len(names) > 1 else []:
            shapes = tuple(_rescale(self.types, one, factors) for one in self.shapes)
            if shapes != self.shapes:
                yield replace(self, shapes=shapes, small=(), rescaled=True)

    def _draw(self, rng: np.random.Generator, name: str, shape: Shape, kind: str) -> Array:
        elem = self.types[name].elem
        if elem not in FLOATS:
            return draw(rng, elem, shape, self.meaning.get(name))
        if self.norm is not None and kind in (*_NORM_PLAN, *_HALF_PLAN):
            return to_elem(_ill_conditioned(rng, shape, kind, self.norm.epsilon), elem)
        return to_elem(_values(rng, shape, kind, half=elem == onnx.TensorProto.FLOAT16), elem)


def plan_inputs(region: onnx.ModelProto, rewritten: onnx.ModelProto) -> RegionInputs:
    """Choose shapes for the inputs of `region` and of what it was rewritten to.

    Raises:
        InputsError: an input is not a tensor, its rank is unknown, or it does not fit into memory.
    """
    types = {}
    for info in free_inputs(region.graph):
        found = tensor_type(info)
        if found is None:
            raise InputsError(f"input {info.name!r} is not a tensor")
        if found.rank is None:
            raise InputsError(f"the rank of input {info.name!r} is unknown")
        types[info.name] = found
    channels = dict(_channel_hints(region))
    least = _least_space(region.graph)
    shapes = tuple(_assign(types, channels, least, variant) for variant in range(3))
    if len(set(map(str, shapes))) == 1:
        shapes = shapes[:1]
    largest = max((math.prod(shape) for shape in shapes[0].values()), default=0)
    room = system_memory()
    if room is not None and largest * BYTES_PER_ELEMENT > room // 4:
        raise InputsError(f"an input of {largest} elements does not fit into memory")
    whole = any(found.elem not in FLOATS for found in types.values())
    said = meanings(region.graph, infer_types(region, shapes[0])) if whole else {}
    free = {name: TensorType(found.elem, _free_space(found.dims)) for name, found in types.items()}
    small: tuple[dict[str, Shape], ...] = ()
    if largest > _LARGE and all(any_size(side.graph, types) for side in (region, rewritten)):
        shapes = shapes[-2:]  # the first trial is the only one at the declared size: one sample is enough
        small = tuple(_assign(free, channels, least, variant) for variant in (3, 4))
    return RegionInputs(types, shapes, said, largest, small, norm=_norm_inputs(region, rewritten))


def _norm_inputs(region: onnx.ModelProto, rewritten: onnx.ModelProto) -> NormInputs | None:
    if not normalises(region):
        return None
    found = epsilons(region)
    return NormInputs(found[0] if found else _USUAL_EPSILON, bool(found), is_lossy(rewritten))


def _rescale(types: Mapping[str, TensorType], shapes: Mapping[str, Shape], by: Mapping[str, int]) -> dict[str, Shape]:
    symbols = {
        dim: size * by[name]
        for name in by
        for axis, (dim, size) in enumerate(zip(types[name].dims or (), shapes[name], strict=True))
        if isinstance(dim, str) and axis >= 2
    }

    def size(name: str, axis: int, dim: int | str | None, old: int) -> int:
        if isinstance(dim, str):
            return symbols.get(dim, old)
        return old * by.get(name, 1) if dim is None and axis >= 2 else old

    return {
        name: tuple(size(name, axis, dim, shapes[name][axis]) for axis, dim in enumerate(found.dims or ()))
        for name, found in types.items()
    }


def _free_space(dims: tuple[int | str | None, ...] | None) -> tuple[int | str | None, ...]:
    return tuple(dim if axis < 2 else None for axis, dim in enumerate(dims or ()))


def _assign(types: Mapping[str, TensorType], channels: Mapping[str, int], least: int, variant: int) -> dict[str, Shape]:
    symbols: dict[str, int] = {}
    shapes = {}
    for name, found in types.items():
        dims = []
        for axis, dim in enumerate(found.dims or ()):
            if isinstance(dim, int):
                dims.append(dim)
                continue
            size = channels.get(name) if axis == 1 else None
            size = size or (_BATCHES[variant] if axis == 0 else least + _PRIMES[variant][(axis - 1) % 4])
            dims.append(symbols.setdefault(dim, size) if dim else size)
        shapes[name] = tuple(dims)
    return shapes


def _channel_hints(region: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Yield (input, channels) where a weight of the first reader fixes what the input's type leaves open."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in region.graph.initializer}
    for node in region.graph.node:
        shape = weights.get(node.input[1]) if len(node.input) > 1 else None
        if not shape:
            continue
        if node.op_type == "Conv":
            yield node.input[0], shape[1] * int(attributes(node).get("group", 1))
        elif node.op_type in ("ConvTranspose", "BatchNormalization", "InstanceNormalization"):
            yield node.input[0], shape[0]
        elif node.op_type == "Gemm":
            yield node.input[0], shape[1 if attributes(node).get("transB") else 0]


def _least_space(graph: onnx.GraphProto) -> int:
    """Return a size that every window of the region fits into, even size, 0 where there is none."""
    sizes = [0]
    for node in graph.node:
        found = attributes(node)
        kernel = found.get("kernel_shape") or []
        spread = found.get("dilations") or [1] * len(kernel)
        sizes += [(size - 1) * step for size, step in zip(kernel, spread, strict=False)]
        sizes.append(int(found.get("blocksize", 0)))
    return sum(sizes) + sum(sizes) % 2


def _values(rng: np.random.Generator, shape: Shape, kind: str, *, half: bool) -> Array:
    values = rng.standard_normal(shape)
    if kind in ("mixed-space", "mixed-channel"):
        return _mixed(rng, values, kind, half=half)
    return _hostile(rng, values, kind, half=half)


def _ill_conditioned(rng: np.random.Generator, shape: Shape, kind: str, epsilon: float) -> Array:
    """Values whose mean and spread are of a kind that norms tell apart."""
    values = rng.standard_normal(shape)
    if kind == "rows":  # every row has its own
        count = max(1, min(2, len(shape) - 1))
        rows = (*shape[:count], *[1] * (len(shape) - count))
        spread = 10 ** rng.uniform(-1, 1, rows)
        return spread * (values + rng.normal(0, 2, rows))
    if kind == "ill":
        return values + 3e3
    if kind == "overflow":  # deviations whose squares leave float16
        return values * 300
    return values * math.sqrt(epsilon) * (10 if kind == "epsilon-wide" else 1)


def _hostile(rng: np.random.Generator, values: Array, kind: str, *, half: bool) -> Array:
    """Turn normal `values` into values of one kind; float16 has less room, so its extremes are nearer."""
    if kind == "offset":
        return values + (1e2 if half else 1e3)
    if kind == "tiny":
        return values * (1e-4 if half else 1e-20)
    if kind == "huge":
        return values * (64.0 if half else 1e12)
    if kind == "subnormal":
        return values * (1e-6 if half else 1e-39)
    if kind == "zero":
        return np.copysign(0.0, values)
    if kind == "constant":
        return np.full_like(values, float(rng.standard_normal()))
    if kind == "one-hot":
        return _one_hot(rng, values)
    return values


def _one_hot(rng: np.random.Generator, values: Array) -> Array:
    result = np.zeros_like(values)
    if result.size:
        flat = result.reshape(values.shape[0] if values.ndim else 1, -1)
        flat[np.arange(len(flat)), rng.integers(0, flat.shape[1], len(flat))] = 1.0
    return result


_MIX = ("normal", "constant", "offset", "tiny", "zero", "huge", "normal", "one-hot", "subnormal")


def _mixed(rng: np.random.Generator, values: Array, kind: str, *, half: bool) -> Array:
    """Give slices along one axis different kinds: the longest axis but the channels', or the channels."""
    if values.ndim < 2 or not values.size:
        return _hostile(rng, values, "offset", half=half)
    others = [axis for axis in range(values.ndim) if axis != 1]
    axis = 1 if kind == "mixed-channel" else max(others, key=lambda axis: values.shape[axis])
    slices = np.moveaxis(values, axis, 0)  # a view: writing changes `values`
    for block, indices in enumerate(np.array_split(np.arange(len(slices)), min(len(_MIX), len(slices)))):
        slices[indices] = _hostile(rng, slices[indices], _MIX[block], half=half)
    return values
