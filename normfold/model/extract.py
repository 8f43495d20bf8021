"""Small standalone models cut out of a large one. The only module that imports onnx-graphsurgeon.

graphsurgeon isolates subgraphs well and rewrites large files badly (it re-encodes everything and drops what it does not
know), so it gets the small job: a few nodes with their constants in, a clean model with the wanted inputs and outputs
out. The large model is changed by `splice`, which never re-encodes what it does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs  # noqa: TID251 - this is the one place
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx_graphsurgeon.logger import G_LOGGER  # noqa: TID251

from normfold.model.dtypes import numpy_dtype
from normfold.model.shapes import Dims
from normfold.model.tensors import FileTensor, TensorSource

G_LOGGER.severity = G_LOGGER.CRITICAL  # it logs to stdout, which belongs to the result


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a cut-out: name, ONNX element type, dimensions (None: rank unknown)."""

    name: str
    data_type: int
    dims: Dims | None

    def info(self) -> ValueInfoProto:
        """As protobuf."""
        return helper.make_tensor_value_info(self.name, self.data_type, None if self.dims is None else list(self.dims))


def cut_out(
    nodes: Iterable[NodeProto],
    constants: Sequence[TensorProto],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    opset: Mapping[str, int],
    ir_version: int,
) -> ModelProto:
    """A model of exactly what the outputs need of the given nodes.

    Args:
        nodes: in any order; those that no output depends on are left out.
        constants: initializers, by name.
        inputs, outputs: the interface.
        opset: version by domain.
        ir_version: at least 4 is used, so that constants need not be inputs.
    """
    graph = helper.make_graph(
        list(nodes), "region", [p.info() for p in inputs], [p.info() for p in outputs], list(constants)
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opset.items())]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=max(ir_version, 4))
    cut = gs.import_onnx(proto)
    cut.cleanup(remove_unused_graph_inputs=False).toposort()
    result: ModelProto = gs.export_onnx(cut, do_type_check=False)
    result.ir_version = proto.ir_version
    del result.opset_import[:]
    result.opset_import.extend(imports)
    return result


def constant(name: str, source: TensorSource) -> TensorProto:
    """A tensor with its payload, rounded to its storage type where it was computed in float64."""
    storage = numpy_dtype(source.data_type)
    if storage is None and isinstance(source, FileTensor):  # a quantised weight of a type without arithmetic
        return TensorProto(name=name, data_type=source.data_type, dims=source.dims, raw_data=bytes(source.raw()))
    values = source.array().astype(storage, copy=False)
    return TensorProto(name=name, data_type=source.data_type, dims=source.dims, raw_data=values.tobytes())
