"""Writing operators into one scope of a model: names that are free, and the forms that its opset has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from normfold.model import dtypes
from normfold.model.graph import Node, Scope
from normfold.model.load import Model
from normfold.model.patch import ScopePatch

# From this opset on ReduceMean takes its axes as an input.
_AXES_AS_INPUT = 18


def free_prefix(model: Model) -> str:
    """A prefix that no name in the model begins with."""
    names = [name for scope in model.scopes() for name in scope.values]
    names += [node.proto.name for scope in model.scopes() for node in scope.nodes]
    prefix = "normfold.probe"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


class Writer:
    """Appends operators to a list. Every method returns the name of what it makes.

    Args:
        nodes: that grows; part of the patch of a scope.
        version: opset of that scope.
        prefix: of all names; no other writer has the same.
    """

    def __init__(self, nodes: list[NodeProto], version: int, prefix: str) -> None:
        self._nodes, self._version, self._prefix = nodes, version, prefix

    @staticmethod
    def beside(patch: ScopePatch, node: Node, prefix: str, *, behind: bool = False) -> Writer:
        """One that puts operators in front of a node, or behind it."""
        place = patch.after if behind else patch.before
        return Writer(place.setdefault(node.index, []), node.scope.version, prefix)

    @staticmethod
    def at_end(patch: ScopePatch, scope: Scope, prefix: str) -> Writer:
        """One that puts operators behind all others of a scope."""
        return Writer(patch.appended, scope.version, prefix)

    def operator(self, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """One operator with one output, of a fresh name unless one is given."""
        name = output or f"{self._prefix}/{op_type}{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{name}:node", **attributes))
        return name

    def rename_last(self, name: str) -> None:
        """Call the operator that was written last as people know it."""
        self._nodes[-1].name = name

    def constant(self, values: np.ndarray, data_type: int | None = None) -> str:
        """A constant in the type of the array, or rounded to an ONNX float type."""
        if data_type is not None:
            storage = dtypes.numpy_dtype(data_type)
            assert storage is not None
            raw = np.asarray(values).astype(storage).tobytes()
            tensor = TensorProto(data_type=data_type, dims=np.shape(values), raw_data=raw)
        else:
            tensor = numpy_helper.from_array(np.asarray(values))
        return self.operator("Constant", (), value=tensor)

    def mean(self, value: str, axes: Sequence[int], *, keepdims: bool) -> str:
        """ReduceMean."""
        if self._version < _AXES_AS_INPUT:
            return self.operator("ReduceMean", [value], axes=list(axes), keepdims=int(keepdims))
        given = self.constant(np.array(axes, np.int64))
        return self.operator("ReduceMean", [value, given], keepdims=int(keepdims))

    def reshape(self, value: str, dims: Sequence[int], output: str = "") -> str:
        """Reshape; 0 keeps a dimension, -1 takes what is left."""
        return self.operator("Reshape", [value, self.constant(np.array(dims, np.int64))], output)

    def cast(self, value: str, data_type: int) -> str:
        """Cast to an ONNX type."""
        return self.operator("Cast", [value], to=data_type)
