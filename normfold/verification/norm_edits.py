"""Norm edits -> regions: the nodes that spelled a norm, and those that stand in their place, each as a small model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import TensorProto

from normfold.model.extract import Port, constant, cut_out
from normfold.model.graph import Node, Value
from normfold.model.shapes import Shapes
from normfold.surgery.norms import NormEdit, TurnEdit

from .boundary import boundary
from .verdicts import Region

# Nodes that only compute sizes for a Reshape of the norm.
_MOST_SIZING = 64
_OLDEST_IR = 4


class NormRegions:
    """The regions of the norms that were spelled anew, built one by one while they are read.

    Args:
        edits: of one plan.
        ir_version: of the model.
    """

    def __init__(self, edits: Sequence[NormEdit | TurnEdit], ir_version: int) -> None:
        self._edits = edits
        self._ir_version = max(ir_version, _OLDEST_IR)

    def __len__(self) -> int:
        return len(self._edits)

    def __iter__(self) -> Iterator[Region]:
        for edit in self._edits:
            cutter = _Cutter(edit.shapes, self._edits, self._ir_version)
            yield cutter.norm(edit) if isinstance(edit, NormEdit) else cutter.turned(edit)


class _Cutter:
    """The region of one edit."""

    def __init__(self, shapes: Shapes, others: Sequence[NormEdit | TurnEdit], ir_version: int) -> None:
        self._others = others
        self._ir_version = ir_version
        self._shapes = shapes

    def norm(self, edit: NormEdit) -> Region:
        """The nodes of a norm, and those that stand in their place: both sides with the same interface."""
        site = edit.site
        taken = [node for node in edit.extent.dead if node not in site.nodes]
        before = self._with_sizes([*site.nodes, *taken], site.base)
        flowing, constants = boundary(before, self._shapes.constants)
        inputs = [self._port(value) for value in flowing]
        outputs = [Port(edit.extent.output.name, site.norm.output_type, site.norm.dims)]
        if edit.extent.total is not None:
            outputs.append(self._port(edit.extent.total))
        opset = dict(site.end.scope.opset)
        old = [constant(name, source) for name, source in constants.items()]
        first = cut_out([node.proto for node in before], old, inputs, outputs, opset, self._ir_version)
        new = [*edit.constants, *self._read_again(edit, {tensor.name: tensor for tensor in old})]
        opset |= {"": edit.opset, **edit.lowering.domains}
        second = cut_out(edit.nodes, new, inputs, outputs, opset, self._ir_version)
        return Region((edit.id,), first, second)

    def turned(self, edit: TurnEdit) -> Region:
        """The nodes that work channels-last now, as they were and as they are."""
        inside = {id(node): node for node in edit.before}
        for site in edit.sites:
            inside |= {id(node): node for node in self._with_sizes(site.nodes, site.base)}
        nodes = sorted(inside.values(), key=lambda node: node.index)
        flowing, constants = boundary(nodes, self._shapes.constants)
        made = {name for node in edit.after for name in node.output}
        read_here = {name for node in edit.after for name in node.input} - made - set(constants)
        known = {value.name for value in flowing} | {tensor.name for tensor in edit.constants}
        others = [edit.scope.lookup(name) for name in sorted(read_here - known) if name]
        inputs = [self._port(value) for value in (*flowing, *(value for value in others if value is not None))]
        values = [value for node in edit.before for value in node.outputs if value is not None and value.name in made]
        outputs = [self._port(v) for v in values if v.is_output or any(id(use.node) not in inside for use in v.uses)]
        opset = dict(edit.scope.opset)
        old = [constant(name, source) for name, source in constants.items()]
        first = cut_out([node.proto for node in nodes], old, inputs, outputs, opset, self._ir_version)
        new = [*edit.constants, *old]
        second = cut_out(edit.after, new, inputs, outputs, {**opset, **edit.domains}, self._ir_version)
        return Region((edit.id,), first, second)

    def _with_sizes(self, nodes: Sequence[Node], base: Value) -> list[Node]:
        """The nodes with those outside of them that compute sizes of what is inside."""
        found = {id(node): node for node in nodes}
        for node in nodes:
            for value in node.inputs:
                more = None if value is None or value is base else self._sizing(value, base, found)
                found |= {id(item): item for item in more or ()}
        return sorted(found.values(), key=lambda node: node.index)

    def _sizing(self, value: Value, base: Value, inside: dict[int, Node]) -> list[Node] | None:
        """What a value is computed of, down to the base and constants; None if something else goes into it."""
        found: dict[int, Node] = {}
        pending = [value]
        while pending:
            current = pending.pop()
            node = current.producer
            if current is base or self._is_constant(current) or (node is not None and id(node) in inside):
                continue
            if node is None or node.scope is not base.scope or node.subgraphs or len(found) > _MOST_SIZING:
                return None
            found[id(node)] = node
            pending += [item for item in node.inputs if item is not None and id(item.producer) not in found]
        return list(found.values())

    def _is_constant(self, value: Value) -> bool:
        return self._shapes.constants.get(value) is not None

    def _port(self, value: Value) -> Port:
        return Port(value.name, self._shapes.data_type(value) or TensorProto.FLOAT, self._shapes.dims(value))

    def _read_again(self, edit: NormEdit, known: dict[str, TensorProto]) -> Iterator[TensorProto]:
        """Initializers that the model had before and that the new nodes read; other edits may have brought them."""
        made = {name for node in edit.nodes for name in node.output} | {t.name for t in edit.constants}
        scope = edit.site.end.scope
        for name in dict.fromkeys(name for node in edit.nodes for name in node.input):
            if not name or name in made or name == edit.site.base.name:
                continue
            value = scope.lookup(name)
            source = None if value is None else self._shapes.constants.get(value)
            if name in known:
                yield known[name]
            elif source is not None:
                yield constant(name, source)
            else:
                yield from (t for other in self._others for t in other.constants if t.name == name)
