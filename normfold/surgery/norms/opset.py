"""The whole model under a newer opset: its graph, and every function, because both must mean the same by one operator."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from normfold.model.graph import Scope
from normfold.model.load import Model
from normfold.model.rewrite import Names
from normfold.model.shapes import Shapes
from normfold.surgery.norms.emit import tensor_of
from normfold.surgery.versions import raise_opset


@dataclass(frozen=True, slots=True)
class Raised:
    """What stands in the place of a node.

    Args:
        proto: the node itself.
        before: nodes in front of it.
        tensors: new initializers.
    """

    proto: NodeProto
    before: tuple[NodeProto, ...]
    tensors: tuple[TensorProto, ...]


def raised(model: Model, wanted: int, shapes: Shapes, names: Names) -> dict[Scope, dict[int, Raised]]:
    """The nodes that have to change, by scope and index.

    Raises:
        Refused: `opset`, some node has no exact form in the newer opset.
    """
    found: dict[Scope, dict[int, Raised]] = {}
    for root in model.roots:
        for scope, nodes in raise_opset(root, wanted, shapes.constants, shapes, names.fresh).items():
            found[scope] = {
                index: Raised(new.proto, new.before, tuple(tensor_of(c, c.name) for c in new.constants))
                for index, new in nodes.items()
            }
    return found
