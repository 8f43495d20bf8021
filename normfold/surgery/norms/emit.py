"""Lowering -> nodes: placeholders become names, and a constant that the model has already is read and not written again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, TensorProto, helper

from normfold.errors import InputError
from normfold.model import dtypes
from normfold.model.graph import Node, Scope, Value
from normfold.model.rewrite import Names
from normfold.model.tensors import FileTensor, Unreadable
from normfold.norm.recognise import NormSite
from normfold.surgery.norms.surroundings import Extent
from normfold.targets.lowering import SUM, Constant, Given, Lowering, X, Y

# Equal constants of one model are written once, if they are no larger than this.
_MOST_SHARED = 1 << 16


@dataclass(slots=True)
class Emitter:
    """Writes norms as nodes; remembers the constants that it made.

    Args:
        names: of the model.
    """

    names: Names
    _made: dict[tuple[object, ...], str] = field(default_factory=dict)

    def emit(
        self, site: NormSite, lowering: Lowering, extent: Extent
    ) -> tuple[tuple[NodeProto, ...], tuple[TensorProto, ...]]:
        """The nodes of a lowering in the place of a norm, and the constants that are new.

        Constants that another norm of the same scope brought already are not among them.
        """
        label = site.end.label
        known = {"": "", X: site.base.name, Y: extent.output.name}
        if extent.total is not None:
            known[SUM] = extent.total.name
        new: list[TensorProto] = []
        for constant in lowering.constants:
            known[constant.name] = self._constant(site, constant, f"{label}/{constant.name}", new)
        nodes = []
        for op in lowering.nodes:
            outputs = [known.setdefault(n, "") or self._output(known, n, label) for n in op.outputs]
            name = label if op is lowering.nodes[-1] and site.end.proto.name else f"{label}/{op.op_type}"
            nodes.append(
                helper.make_node(
                    op.op_type,
                    [str(n) if isinstance(n, Given) else known[n] for n in op.inputs],
                    outputs,
                    name=name if name == site.end.proto.name else self.names.fresh(name),
                    domain=op.domain or None,
                    **op.attributes,
                )
            )
        return tuple(nodes), tuple(new)

    def _output(self, known: dict[str, str], placeholder: str, label: str) -> str:
        if placeholder:
            known[placeholder] = self.names.fresh(f"{label}/{placeholder}")
        return known[placeholder]

    def _constant(self, site: NormSite, constant: Constant, hint: str, new: list[TensorProto]) -> str:
        tensor = tensor_of(constant)
        found = _existing(site, tensor)
        if found is not None:
            return found
        key = (id(site.end.scope), tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        share = len(tensor.raw_data) <= _MOST_SHARED
        if not share or key not in self._made:
            name = self.names.fresh(hint)
            tensor.name = name
            new.append(tensor)
            if not share:
                return name
            self._made[key] = name
        return self._made[key]


def tensor_of(constant: Constant, name: str = "") -> TensorProto:
    """A constant as an initializer, rounded once to its type."""
    values = np.asarray(constant.values)
    if dtypes.is_float(constant.data_type):
        stored = dtypes.rounded(np.asarray(values, np.float64), constant.data_type)
    else:
        kind = dtypes.numpy_dtype(constant.data_type)
        stored = values.astype(kind)
    return TensorProto(name=name, dims=values.shape, data_type=constant.data_type, raw_data=stored.tobytes())


def _existing(site: NormSite, tensor: TensorProto) -> str | None:
    """The name of an initializer that the norm reads already and that holds the same."""
    for value in _initializers(site):
        stored = value.tensor
        if stored is None or stored.data_type != tensor.data_type or stored.dims != tuple(tensor.dims):
            continue
        if _bytes(stored) == tensor.raw_data:
            return value.name
    return None


def _initializers(site: NormSite) -> Iterator[Value]:
    scope = site.end.scope
    for node in site.nodes:
        for value in node.inputs:
            if value is not None and value.tensor is not None and not value.exposed and _sees(scope, value):
                yield value


def _sees(scope: Scope, value: Value) -> bool:
    return scope.lookup(value.name) is value


def _bytes(tensor: FileTensor) -> bytes | None:
    try:
        return bytes(np.ascontiguousarray(tensor.array()).tobytes())
    except (Unreadable, InputError):
        return None


def made_by(nodes: Sequence[NodeProto], place: Node) -> list[str]:
    """The keys that new nodes have in the place of another."""
    return [f"{place.key}~{i}" for i in range(len(nodes))]
