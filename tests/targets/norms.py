"""Norms as models have them, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from normfold.model.dtypes import FLOAT
from normfold.norm.meaning import Norm, Residual

RESIDUAL = Residual("left", "right", None, True)


def numbers(*shape: int) -> np.ndarray:
    """float64, representable in float16, no two alike."""
    return (np.arange(1, 1 + np.prod(shape)).reshape(shape) / 64.0).astype(np.float64)


def norm(dims: Any, axes: Any, *, centred: bool = True, data_type: int = FLOAT, **more: Any) -> Norm:
    made = Norm(centred, tuple(dims), tuple(axes), 1e-5, None, None, data_type, data_type, data_type)
    return replace(made, **more)


def layer_norm(*, width: int = 8, rank: int = 3, **more: Any) -> Norm:
    shape = (1,) * (rank - 1) + (width,)
    given: dict[str, Any] = {"gamma": numbers(*shape), "beta": numbers(*shape)}
    given["dims"] = (*("N", 5, 6, 7)[: rank - 1], width)
    return norm(axes=(rank - 1,), **given | more)


def rms_norm(**more: Any) -> Norm:
    return layer_norm(centred=False, **{"beta": None, **more})


def group_norm(*, channels: int = 8, groups: int | None = 4, spatial: Any = (4, 6), **more: Any) -> Norm:
    shape = (1, channels, *(1 for _ in spatial))
    axes = tuple(range(2, 2 + len(spatial)))
    given: dict[str, Any] = {"gamma": numbers(*shape), "beta": numbers(*shape), "groups": groups}
    given["channel"] = None if groups is None else 1
    return norm(("N", channels, *spatial), axes, **given | more)


def instance_norm(**more: Any) -> Norm:
    return group_norm(groups=None, **more)


def group_norm_last(*, channels: int = 8, groups: int | None = 4, **more: Any) -> Norm:
    shape = (1, 1, 1, channels)
    given: dict[str, Any] = {"gamma": numbers(*shape), "beta": numbers(*shape), "groups": groups}
    given["channel"] = None if groups is None else 3
    return norm(("N", 4, 6, channels), (1, 2), **given | more)


def layer_norm_2d(**more: Any) -> Norm:
    return norm(("N", 8, 4, 6), (1,), **{"gamma": numbers(1, 8, 1, 1), "beta": numbers(1, 8, 1, 1), **more})
