"""Inputs of the reference models: declared once, used to train, to export and to feed them.

A port's shape mixes numbers and labels: `("batch", 3, "height", "width")`. A label becomes a dynamic axis of the
exported model, and `SIZES` says how long that axis is whenever a tensor is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

SIZES: Mapping[str, int] = {"batch": 2, "height": 32, "width": 32, "depth": 8, "time": 24, "tokens": 12}
VOCABULARY = 16  # every integer input is an index below this
LEVEL = 0.8  # share of the deviation that pooling cannot average away: levels per channel, per row, per column, …


@dataclass(frozen=True)
class Port:
    """One model input: its name, its shape with labels for the dynamic axes, and whether it holds indices."""

    name: str
    shape: tuple[int | str, ...]
    indices: bool = False

    @property
    def dynamic(self) -> dict[int, str]:
        """Return the dynamic axes as `{axis: label}`."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}

    def sizes(self, batch: int) -> tuple[int, ...]:
        """Return the shape with every label replaced by its length."""
        lengths = {**SIZES, "batch": batch}
        return tuple(lengths[size] if isinstance(size, str) else size for size in self.shape)


IMAGE = Port("x", ("batch", 3, "height", "width"))


def feeds(model: ModelProto, seed: int = 0, batch: int = SIZES["batch"]) -> dict[str, NDArray[np.generic]]:
    """Return one random array per input that has no initializer, ready for `InferenceSession.run`."""
    rng = np.random.default_rng(seed)
    stored = {tensor.name for tensor in model.graph.initializer}
    return {value.name: _draw(value, rng, batch) for value in model.graph.input if value.name not in stored}


def _draw(value: ValueInfoProto, rng: np.random.Generator, batch: int) -> NDArray[np.generic]:
    tensor = value.type.tensor_type
    lengths = {**SIZES, "batch": batch}
    shape = [lengths[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if tensor.elem_type == TensorProto.BOOL:
        return np.asarray(rng.random(shape) < 0.5)
    if tensor.elem_type == TensorProto.INT64:
        return rng.integers(0, VOCABULARY, shape)
    return draw(rng, shape).astype(dtype)


def draw(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    """Draw data of unit variance whose samples differ even after a global average over any of their axes."""
    noise = (1 - LEVEL**2) ** 0.5 * rng.standard_normal(shape)
    levels = [rng.standard_normal(_along(axis, shape)) for axis in range(1, len(shape))]
    return noise + LEVEL / max(len(levels), 1) ** 0.5 * sum(levels, np.zeros(()))


def _along(axis: int, shape: Sequence[int]) -> list[int]:
    return [size if position in (0, axis) else 1 for position, size in enumerate(shape)]
