"""Regions of the original that a rewrite improved, evaluated in float64: a valid reference for what comes after them.

Where the rewrite is closer to the truth than the original, everything downstream of the original is off as well. The
repaired original computes these regions by definition (Cast, float64 operators, Cast), everything else as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, helper

from .definitions import DEFINITIONS, Body, DefinitionError, key
from .inference import infer_types
from .kernels import operator_name
from .precision import recast
from .protos import FLOATS, TensorType, attributes, opset
from .verdicts import Region

_NO_DOUBLE = (
    "Conv", "ConvTranspose", "Erf", "Gelu", "AveragePool", "MaxPool", "GlobalMaxPool", "LpPool", "Resize",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Repair:
    """A region of the original's main graph that is to be evaluated in float64.

    Args:
        values: names of all values that its nodes make; what the main graph does not make is ignored.
        outputs: those of them that the rest of the model reads.
    """

    values: frozenset[str]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, region: Region) -> Repair:
        """The repair of a region that was compared; its names are those of the original."""
        graph = region.before.graph
        made = frozenset(name for node in graph.node for name in node.output if name)
        return cls(made, tuple(info.name for info in graph.output))


@dataclass(frozen=True, slots=True)
class Repaired:
    """The original with regions in float64.

    Args:
        model: the given model itself if nothing could be repaired.
        count: repaired regions.
        refused: why a region was left as it is, one sentence each.
    """

    model: onnx.ModelProto
    count: int = 0
    refused: tuple[str, ...] = ()


def repair(model: onnx.ModelProto, repairs: Sequence[Repair]) -> Repaired:
    """Evaluate `repairs` of `model` (not changed, payloads of external data not read) in float64."""
    if not repairs:
        return Repaired(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    types, refused, count = infer_types(model, {}), [], 0
    for number, one in enumerate(repairs):
        try:
            _Region(copy, types, one, f"repair{number}::").replace()
            count += 1
        except DefinitionError as problem:
            refused.append(f"an improved region ({', '.join(one.outputs)}) could not be repaired: {problem}")
    return Repaired(copy if count else model, count, tuple(refused))


class _Region:
    """One region in a model that is being repaired."""

    def __init__(self, model: onnx.ModelProto, types: dict[str, TensorType], wanted: Repair, prefix: str) -> None:
        self.graph, self.types, self.prefix = model.graph, types, prefix
        self.opset = opset(model)
        self.made = {name for node in self.graph.node for name in node.output if name in wanted.values}
        self.outputs = [name for name in wanted.outputs if name in self.made]
        self.wide: dict[str, str] = {}
        self.new: list[NodeProto] = []

    def _is_float(self, name: str) -> bool:
        if name not in self.types:
            raise DefinitionError(f"the type of {name!r} is unknown")
        return self.types[name].elem in FLOATS

    def replace(self) -> None:
        """Put the float64 version of every node behind it, and drop what nobody reads any more.

        Raises:
            DefinitionError: the region cannot be evaluated in float64 here; the model is as it was.
        """
        if not self.outputs:
            raise DefinitionError("the main graph of the original does not make its outputs")
        kept = []
        for node in self.graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            kept.append(copy)
            if not self.made.isdisjoint(node.output):
                self.new = []
                self._widened(node)
                self._narrowed(copy)
                kept += self.new
        live = _live(kept, {info.name for info in self.graph.output}, self._droppable())
        del self.graph.node[:]
        self.graph.node.extend(live)

    def _narrowed(self, copy: NodeProto) -> None:
        """Cast what the rest of the model reads back to its type, and give the old value another name."""
        for slot, name in enumerate(copy.output):
            if name in self.outputs and self._is_float(name):
                copy.output[slot] = f"{self.prefix}old.{name}"
                self.new.append(helper.make_node("Cast", [self.wide[name]], [name], to=self.types[name].elem))

    def _droppable(self) -> set[str]:
        return self.made | {f"{self.prefix}old.{name}" for name in self.outputs}

    def _widened(self, node: NodeProto) -> None:
        """Compute what `node` makes a second time, in float64; integers (shapes) are taken as they are."""
        if not any(self._is_float(name) for name in node.output if name):
            return None
        inputs = [self._wide(name) if name and self._is_float(name) else name for name in node.input]
        names = [f"{self.prefix}{name}" if name else "" for name in node.output]
        self.wide.update({old: new for old, new in zip(node.output, names, strict=True) if old})
        if key(node) in DEFINITIONS:
            return self._define(node, inputs, names)
        if node.domain not in ("", "ai.onnx") or node.op_type in _NO_DOUBLE:
            raise DefinitionError(f"{operator_name(node)} has no float64 kernel here")
        copy = recast_node(node)
        copy.input[:], copy.output[:], copy.name = inputs, names, ""
        return self.new.append(copy)

    def _define(self, node: NodeProto, inputs: Sequence[str], names: Sequence[str]) -> None:
        ranks = {
            wide: found.rank
            for wide, name in zip(inputs, node.input, strict=True)
            if (found := self.types.get(name)) is not None and found.rank is not None
        }
        body = Body(self.opset, f"{names[0]}.", ranks)
        results = DEFINITIONS[key(node)](body, inputs, attributes(node))
        self.new += body.nodes
        for name, value in zip(names, results, strict=False):
            if name:
                self.new.append(helper.make_node("Identity", [value], [name]))

    def _wide(self, name: str) -> str:
        if name not in self.wide:
            self.wide[name] = f"{self.prefix}{name}"
            self.new.append(helper.make_node("Cast", [name], [self.wide[name]], to=TensorProto.DOUBLE))
        return self.wide[name]


def recast_node(node: NodeProto) -> NodeProto:
    """A copy of `node` whose floating attributes (Cast targets, constants) are float64."""
    holder = onnx.ModelProto()
    holder.graph.node.add().CopyFrom(node)
    copy: NodeProto = recast(holder, TensorProto.DOUBLE).graph.node[0]
    return copy


def _live(nodes: Sequence[NodeProto], outputs: Collection[str], droppable: Collection[str]) -> list[NodeProto]:
    """The nodes without those of the region that nothing reads; subgraphs read what their nodes name."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        gone = all(not name or (name in droppable and name not in needed) for name in node.output)
        if not gone:
            kept.append(node)
            needed.update(_reads(node))
    return kept[::-1]


def _reads(node: NodeProto) -> set[str]:
    found = set(node.input)
    for attribute in node.attribute:
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            found.update(info.name for info in inner.output)
            for one in inner.node:
                found |= _reads(one)
    return found
