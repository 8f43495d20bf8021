"""Small questions to ONNX protos, and the renaming that lets many regions share one session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from .verdicts import Array

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and dims of a value; a dim is an integer, a symbol or None; `dims` is None for unknown rank."""

    elem: int
    dims: tuple[int | str | None, ...] | None

    @property
    def rank(self) -> int | None:
        """Number of dims, or None."""
        return None if self.dims is None else len(self.dims)

    def dim(self, axis: int) -> int | None:
        """Size along `axis` if it is a known integer."""
        if self.dims is None or not -len(self.dims) <= axis < len(self.dims):
            return None
        size = self.dims[axis]
        return size if isinstance(size, int) else None


def tensor_type(info: onnx.ValueInfoProto) -> TensorType | None:
    """Return the type of `info`, or None when it is not a dense tensor."""
    if not info.type.HasField("tensor_type"):
        return None
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    return TensorType(tensor.elem_type, tuple(_dim(dim) for dim in tensor.shape.dim))


def _dim(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value >= 0 else None  # some exporters write -1 for "any"
    return str(dim.dim_param) or None if dim.HasField("dim_param") else None


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of `node` as Python values."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def constant_values(node: onnx.NodeProto) -> Array:
    """Return what a Constant node holds; floats given as attributes are float32."""
    found = onnx.helper.get_attribute_value(node.attribute[0])
    if isinstance(found, TensorProto):
        return onnx.numpy_helper.to_array(found)
    return np.asarray(found, np.float32 if node.attribute[0].name.startswith("value_float") else None)


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard opset that `model` imports, 0 if none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return an estimate of the bytes that the initializers of `model` take."""
    return sum(4 * int(np.prod(tensor.dims, dtype=np.int64)) for tensor in model.graph.initializer)


def free_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the graph inputs that have no initializer: the ones that must be fed."""
    given = {tensor.name for tensor in graph.initializer}
    given.update(tensor.values.name for tensor in graph.sparse_initializer)
    return [info for info in graph.input if info.name not in given]


def walk(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, subgraphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from walk(inner)


def prefix_names(graph: onnx.GraphProto, prefix: str) -> None:
    """Put `prefix` before every value name of `graph`, subgraphs included, and drop its node names."""
    for node in graph.node:
        node.name = ""  # nothing reads it, and equal names would be refused
        for names in (node.input, node.output):
            names[:] = [prefix + name if name else "" for name in names]
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                prefix_names(inner, prefix)
    for item in [*graph.initializer, *graph.input, *graph.output, *graph.value_info]:
        item.name = prefix + item.name


def to_elem(values: Array, elem: int) -> Array:
    """Return `values` in the numpy type of `elem`, rounded to nearest."""
    with np.errstate(all="ignore"):
        return values.astype(onnx.helper.tensor_dtype_to_np_dtype(elem))
