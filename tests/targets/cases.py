"""Norms to lower, drawn by hypothesis: every form, with parameters of every shape, static and dynamic extents, all types."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from normfold.model.dtypes import BFLOAT16, DOUBLE, FLOAT, FLOAT16, stored
from normfold.norm.meaning import Norm, Residual, Surroundings
from normfold.targets.lower import Options

TYPES = (FLOAT, FLOAT16, BFLOAT16, DOUBLE)
EPSILONS = (1e-5, 1e-12, 1e-3, 0.0)


@dataclass(eq=False)
class Case:
    """A norm, where it stands, and data for all it reads."""

    norm: Norm
    shape: tuple[int, ...]
    options: Options
    around: Surroundings
    given: dict[str, np.ndarray] = field(default_factory=dict)
    x: np.ndarray = field(default_factory=lambda: np.zeros(()))


def values(shape: tuple[int, ...], seed: int, data_type: int = FLOAT16) -> np.ndarray:
    """Normal numbers that the type holds exactly, so that nothing but arithmetic is compared."""
    return stored(np.random.default_rng([seed, *shape]).normal(size=shape) + 0.5, data_type)


def parameter(
    draw: Callable[..., Any], shape: tuple[int, ...], along: int, data_type: int, seed: int
) -> np.ndarray | None:
    """Nothing, one number, or numbers along the channels or any other dimensions."""
    kind = draw(st.sampled_from(("none", "channel", "channel", "last", "any", "all", "scalar")))
    if kind == "none":
        return None
    rank = len(shape)
    picked: set[int] = {
        "last": {rank - 1},
        "channel": {along},
        "any": set(draw(st.lists(st.integers(0, rank - 1)))),
        "all": set(range(1, rank)),
        "scalar": set(),
    }[kind]
    return values(tuple(extent if axis in picked else 1 for axis, extent in enumerate(shape)), seed, data_type)


@st.composite
def cases(draw: Callable[..., Any]) -> Case:
    kind = draw(st.sampled_from(("layer", "instance", "instance last", "group", "group last", "whole", "any")))
    rank = draw(st.sampled_from((2, 3, 4, 5) if kind in ("layer", "group", "any") else (3, 4, 4, 5)))
    # different primes, so that no extent passes for another by accident; the one that may be cut has factors
    shape = [draw(st.sampled_from((1, 2))), 3, 5, 2, 7][:rank]
    last = rank - 1
    axes: tuple[int, ...] = {
        "layer": tuple(range(draw(st.integers(1, last)), rank)),
        "instance": tuple(range(2, rank)),
        "instance last": tuple(range(1, last)),
        "group": tuple(range(2, rank)),
        "group last": tuple(range(1, last)),
        "whole": tuple(range(1, rank)),
        "any": tuple(axis for axis in range(1, rank) if draw(st.booleans())) or (1,),
    }[kind]
    groups, channel = None, {"instance last": last, "group last": last}.get(kind, 1)
    if "group" in kind or (kind == "any" and draw(st.booleans())):
        channel = next((axis for axis in (channel, last) if axis not in axes), None)
        groups = None if channel is None else draw(st.sampled_from((1, 2, 3, 4, 6)))
        if channel is not None:
            shape[channel] = 12
    cut = None if groups is None else channel
    return _filled(draw, tuple(shape), axes, groups, cut, channel or 1)


def _filled(
    draw: Callable[..., Any],
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    groups: int | None,
    channel: int | None,
    along: int,
) -> Case:
    rank, centred = len(shape), draw(st.integers(0, 4)) > 0
    input_type = draw(st.sampled_from((FLOAT, *TYPES)))
    output_type = draw(st.sampled_from((input_type, input_type, FLOAT)))
    parameter_type = draw(st.sampled_from((input_type, input_type, FLOAT)))
    gamma, beta = (parameter(draw, shape, along, parameter_type, seed) for seed in (1, 2))
    dims = tuple(extent if draw(st.integers(0, 3)) else None for extent in shape)
    given: dict[str, np.ndarray] = {}
    is_suffix = groups is None and axes == tuple(range(rank - len(axes), rank))
    scale = bias = None
    if is_suffix and draw(st.integers(0, 3)) == 0:
        scale, gamma = "x", None  # a tensor of the graph, called as a placeholder is
        given["x"] = values(shape[axes[0] :], 3, parameter_type)
    if is_suffix and draw(st.integers(0, 3)) == 0:
        bias, beta = "bias", None
        given["bias"] = values(shape[axes[0] :], 4, parameter_type)
    types = (input_type, output_type, parameter_type)
    epsilon = float(np.float32(draw(st.sampled_from(EPSILONS))))
    norm = Norm(centred, dims, axes, epsilon, gamma, beta, *types, groups, channel, scale, bias)
    options = Options(draw(st.integers(11, 23)), draw(st.sampled_from((None, 1, 4))), draw(st.booleans()))
    case = Case(norm, shape, options, Surroundings(silu=draw(st.booleans())), given, values(shape, 5, input_type))
    _surround(draw, case)
    return case


def _surround(draw: Callable[..., Any], case: Case) -> None:
    """An addition in front of the norm; `x` becomes its sum."""
    shape, kind = case.shape, draw(st.sampled_from(("none", "residual", "embedding")))
    silu, data_type = case.around.silu, case.norm.input_type
    if kind == "residual":
        width = shape[-1]
        addend = values((width,), 8, data_type) if draw(st.booleans()) else None
        case.given |= {"scale": values(shape, 6, data_type), "y": values(shape, 7, data_type)}
        case.around = Surroundings(Residual("scale", "y", addend, draw(st.booleans())), silu=silu)
        case.x = case.given["scale"] + case.given["y"] + (0.0 if addend is None else addend)
    elif kind == "embedding" and len(shape) == 4:
        case.given |= {"time": values((*shape[:2], 1, 1), 9, data_type), "image": values(shape, 10, data_type)}
        case.around = Surroundings(embedding="time", embedded="image", silu=silu)
        case.x = case.given["time"] + case.given["image"]


def size(case: Case) -> int:
    """How many elements are normalised together."""
    norm = case.norm
    cut = 1 if norm.groups is None or norm.channel is None else case.shape[norm.channel] // norm.groups
    return cut * math.prod(case.shape[axis] for axis in norm.axes)
