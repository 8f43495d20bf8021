"""Elements of ONNX sequences, which torch.export makes of a split or a chunk: what SequenceAt takes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normfold.model import attributes
from normfold.model.graph import Node, Value
from normfold.model.shapes.dims import Dim, Dims
from normfold.model.shapes.rule import Rule

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes

_SPLIT, _LISTED = "SplitToSequence", "SequenceConstruct"


def elements(node: Node, slot: int = 0) -> list[Value | None]:
    """The tensors that a SequenceAt takes one of, or that it takes a part of; none if the list comes from elsewhere."""
    maker = _maker(node)
    if maker is None:
        return []
    return list(maker.inputs[:1] if maker.op_type == _SPLIT else maker.inputs)


def _maker(node: Node) -> Node | None:
    listed = node.input(0)
    maker = None if listed is None else listed.producer
    if maker is None or maker.domain or maker.is_call or maker.is_bound_by_caller:
        return None
    return maker if maker.op_type in (_SPLIT, _LISTED) else None


def _taken(shapes: Shapes, node: Node, slot: int) -> Dims | None:
    maker, place = _maker(node), shapes.constants.ints(node.input(1))
    if maker is None or place is None or len(place) != 1:
        return None
    if maker.op_type == _LISTED:
        return shapes.known(maker.inputs[place[0]])
    return _part(shapes, maker, place[0])


def _part(shapes: Shapes, maker: Node, place: int) -> Dims | None:
    data, given = shapes.known(maker.input(0)), maker.input(1)
    if data is None or attributes.unexpected(maker, ("axis", "keepdims")):
        return None
    axis, keeps = int(attributes.get(maker, "axis", 0)) % len(data), bool(attributes.get(maker, "keepdims", 1))
    if given is None:
        return (*data[:axis], *((1,) if keeps else ()), *data[axis + 1 :])
    if not keeps:  # ignored by the standard, but not by onnxruntime where all parts have length 1
        return None
    return (*data[:axis], _length(shapes, given, data[axis], place), *data[axis + 1 :])


def _length(shapes: Shapes, given: Value, size: Dim, place: int) -> Dim:
    """Of one part: a list gives all lengths, a scalar the length of all but perhaps the last."""
    lengths, source = shapes.constants.ints(given), shapes.constants.get(given)
    if lengths is None or source is None:
        return None
    if not source.dims and isinstance(size, int):
        starts = range(0, size, lengths[0])
        return min(lengths[0], size - starts[place])
    return lengths[place] if source.dims else None


RULES: dict[str, Rule] = {"SequenceAt": Rule(_taken, 0, sources=elements)}
