"""What the values of an input mean, read off the operators that consume it.

An integer input that indexes a table must stay inside it, a mask must keep one element per row, and an input that
feeds a shape must not be random at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .protos import TensorType, attributes
from .verdicts import Array

_TRANSPARENT = (
    "Identity", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Flatten", "Expand", "Slice", "Concat", "Split", "Tile",
    "Cast",
)  # fmt: skip
_SHAPE_SLOTS = {
    "Reshape": (1,), "Expand": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "Slice": (1, 2, 3, 4), "Tile": (1,),
    "ConstantOfShape": (0,), "Pad": (1,), "Range": (0, 1, 2), "TopK": (1,), "Unsqueeze": (1,), "Squeeze": (1,),
}  # fmt: skip
_INDEX_SLOTS = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "Scatter": 1, "ScatterElements": 1, "ScatterND": 1,
}  # fmt: skip
_COMPARISONS = ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")


@dataclass(frozen=True, slots=True)
class Meaning:
    """How to draw an integer or bool input.

    Args:
        kind: "index", "mask", "position", "shape", "compare" or "plain".
        low: smallest value.
        high: largest value plus one.
    """

    kind: str
    low: int = 0
    high: int = 2


def meanings(graph: onnx.GraphProto, types: Mapping[str, TensorType]) -> dict[str, Meaning]:
    """Return the meaning of every integer and bool graph input that an operator reveals; others are left out."""
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for slot, name in enumerate(node.input):
            readers[name].append((node, slot))
    scan = _Scan(readers, types, {tensor.name: tensor for tensor in graph.initializer})
    found = {info.name: scan.meaning(info) for info in graph.input}
    return {name: meaning for name, meaning in found.items() if meaning is not None}


@dataclass(frozen=True, slots=True)
class _Scan:
    readers: Mapping[str, list[tuple[onnx.NodeProto, int]]]
    types: Mapping[str, TensorType]
    constants: Mapping[str, TensorProto]

    def meaning(self, info: onnx.ValueInfoProto) -> Meaning | None:
        """Intersect what every consumer of `info` says, index limits first."""
        said = self._consumers(info.name)
        for kind in ("index", "shape", "compare", "mask"):
            chosen = [meaning for meaning in said if meaning.kind == kind]
            if chosen:
                merged = Meaning(kind, max(m.low for m in chosen), min(m.high for m in chosen))
                positional = kind == "index" and "position" in info.name.lower()
                return Meaning("position", merged.low, merged.high) if positional else merged
        name = info.name.lower()
        if "mask" in name:
            return Meaning("mask")
        return Meaning("position", 0, 2**31) if "position" in name else None

    def _consumers(self, start: str) -> list[Meaning]:
        said, seen, queue = [], {start}, [start]
        while queue:
            for node, slot in self.readers[queue.pop()]:
                meaning = self._one(node, slot)
                if meaning is not None:
                    said.append(meaning)
                elif node.op_type == "Concat" or (node.op_type in _TRANSPARENT and slot == 0):
                    queue += [name for name in node.output if name and name not in seen]
                    seen.update(node.output)
        return said

    def _one(self, node: onnx.NodeProto, slot: int) -> Meaning | None:
        if slot in _SHAPE_SLOTS.get(node.op_type, ()):
            return Meaning("shape", 1, 2)
        if _INDEX_SLOTS.get(node.op_type) == slot:
            return self._index(node)
        if node.op_type == "OneHot" and slot == 0:
            depth = self.constants.get(node.input[1])
            return Meaning("index", 0, int(numpy_helper.to_array(depth).ravel()[0])) if depth is not None else None
        if node.op_type in _COMPARISONS:
            return self._compare(node, slot)
        if node.op_type in ("Where", "Not", "And", "Or") and slot == 0:
            return Meaning("mask")
        if node.op_type == "Sub" and slot == 1 and self._is_float(node.output[0]):
            return Meaning("mask")  # the (1 − mask)·(−1e4) idiom
        return None

    def _index(self, node: onnx.NodeProto) -> Meaning | None:
        table = self.types.get(node.input[0])
        size = table.dim(int(attributes(node).get("axis", 0))) if table else None
        return Meaning("index", 0, size) if size else None

    def _compare(self, node: onnx.NodeProto, slot: int) -> Meaning | None:
        other = self.constants.get(node.input[1 - slot])
        if other is None or int(np.prod(other.dims, dtype=np.int64)) != 1:
            return None
        value = int(numpy_helper.to_array(other).ravel()[0])
        return Meaning("compare", value - 2, value + 3)

    def _is_float(self, name: str) -> bool:
        found = self.types.get(name)
        return found is None or found.elem in (TensorProto.FLOAT, TensorProto.FLOAT16)


def draw(rng: np.random.Generator, elem: int, shape: tuple[int, ...], meaning: Meaning | None) -> Array:
    """Return random values of the non-floating type `elem` with the given meaning.

    Raises:
        ValueError: there is no way to draw this type.
    """
    if elem == TensorProto.STRING:
        return np.array([f"text {i}" for i in range(int(np.prod(shape, dtype=np.int64)))], object).reshape(shape)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem))
    if dtype.kind not in "biu":
        raise ValueError(f"no values can be drawn for element type {TensorProto.DataType.Name(elem)}")
    if meaning is not None and meaning.kind == "position":
        line = np.arange(shape[-1] if shape else 1) % max(1, meaning.high)
        return np.broadcast_to(line, shape).astype(dtype)
    if dtype.kind == "b" or (meaning is not None and meaning.kind == "mask"):
        return _mask(rng, shape).astype(dtype)
    if meaning is not None:
        return rng.integers(meaning.low, max(meaning.low + 1, meaning.high), shape).astype(dtype)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return rng.integers(0, 8, shape).astype(dtype)


def _mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    mask = rng.integers(0, 2, shape)
    if mask.ndim:
        mask[..., 0] = 1  # a row without any true element makes softmax NaN
    return mask
