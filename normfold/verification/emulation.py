"""Operators without a kernel here, swapped for what they mean: in the verification copy only, in float64, cast back.

An emulation shows what an operator means, not what its kernel computes; the verdict says so wherever one was used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto, TensorProto, helper

from .definitions import DEFINITIONS, Body, DefinitionError, key, nhwc_conv, typed_like
from .inference import infer_types
from .kernels import Execution, Runtime, operator_name
from .native import inline_functions
from .protos import TensorType, attributes, opset, walk

_CAST_LIKE = 15  # the opset that introduced it


@dataclass(frozen=True, slots=True)
class Emulated:
    """A verification copy.

    Args:
        model: the given model itself where nothing had to be swapped.
        ops: nodes that were swapped, by operator.
        expanded: nodes whose function body the runtime expands, by operator.
        refused: why a node that needs it could not be swapped, one sentence each; such a model will not load.
    """

    model: onnx.ModelProto
    ops: Mapping[str, int] = field(default_factory=dict)
    expanded: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[str, ...] = ()

    @property
    def execution(self) -> Execution:
        """The weakest way in which a node of the model is computed."""
        if self.ops:
            return Execution.EMULATED
        return Execution.EXPANDED if self.expanded else Execution.NATIVE


def emulate(
    model: onnx.ModelProto, runtime: Runtime | None = None, types: Mapping[str, TensorType] | None = None
) -> Emulated:
    """Swap every node of `model` that has no kernel on `runtime` for its definition in float64.

    Args:
        model: not changed; payloads of external data are not read. Subgraphs are searched; functions are inlined if one of
            them holds such a node.
        runtime: where the copy will run; the CPU provider, for a target that names none, by default.
        types: element types and shapes of its values, inferred if not given.

    Raises:
        WorkerError: the child process crashed, timed out or ran out of memory while it inlined or inferred.
    """
    place = runtime or Runtime()
    if not _concerned(model, place):
        return Emulated(model)
    if any(place.concerns(node) for function in model.functions for node in function.node):
        inlined, types = inline_functions(model), None
        if inlined is None:
            return Emulated(model, refused=("its local functions cannot be inlined, so nothing in them is emulated",))
        model = inlined
    found = dict(types) if types is not None else {**_inner_types(model.graph), **infer_types(model, {})}
    swap = _Swap(place, found, opset(model))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    swap.graph(copy.graph)
    result = copy if swap.ops else model
    return Emulated(result, dict(swap.ops), dict(swap.expanded), tuple(swap.refused))


def _concerned(model: onnx.ModelProto, runtime: Runtime) -> bool:
    if any(runtime.concerns(node) for node in walk(model.graph)):
        return True
    return any(runtime.concerns(node) for function in model.functions for node in function.node)


def _inner_types(graph: onnx.GraphProto) -> dict[str, TensorType]:
    """Element types of the initializers of subgraphs, which inference of the main graph does not give."""
    return {
        tensor.name: TensorType(tensor.data_type, tuple(tensor.dims))
        for node in walk(graph)
        for attribute in node.attribute
        for inner in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
        for tensor in inner.initializer
    }


class _Swap:
    def __init__(self, runtime: Runtime, types: Mapping[str, TensorType], version: int) -> None:
        self.runtime, self.types, self.opset = runtime, types, version
        self.ops: Counter[str] = Counter()
        self.expanded: Counter[str] = Counter()
        self.refused: list[str] = []

    def graph(self, graph: onnx.GraphProto) -> None:
        """Swap the nodes of `graph` and of its subgraphs, in place."""
        known = len(self.ops), sum(self.ops.values())
        nodes: list[NodeProto] = []
        for node in graph.node:
            for attribute in node.attribute:
                for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                    self.graph(inner)
            kept = NodeProto()
            kept.CopyFrom(node)
            nodes += self._node(kept)
        if (len(self.ops), sum(self.ops.values())) != known:
            del graph.node[:]
            graph.node.extend(nodes)

    def _node(self, node: NodeProto) -> list[NodeProto]:
        found = self.types.get(node.input[0]) if node.input else None
        how = self.runtime.execution(node, found.elem if found else None, found.rank if found else None)
        if how is Execution.EXPANDED:
            self.expanded[operator_name(node)] += 1
        if how is not Execution.EMULATED:
            return [node]
        try:
            replacement = definition(node, self.types, self.opset)
        except DefinitionError as problem:
            self.refused.append(f"{operator_name(node)} {node.name!r} cannot be emulated: {problem}")
            return [node]
        self.ops[operator_name(node)] += 1
        return replacement


def definition(node: NodeProto, types: Mapping[str, TensorType], version: int) -> list[NodeProto]:
    """Nodes that compute what `node` means, in float64, and cast the results back to the types of its outputs.

    Raises:
        DefinitionError: a type or rank that the definition needs is unknown.
    """
    if node.op_type == "NhwcConv":  # no float64 Conv exists here; only the layout changes
        return nhwc_conv(node, f"{node.output[0]}::nhwc")
    body = Body(version, f"{node.output[0]}::f64.")
    wide = []
    for name in node.input:
        wide.append(body.op("Cast", name, to=TensorProto.DOUBLE) if name else "")
        found = types.get(name)
        if found is not None and found.rank is not None:
            body.ranks[wide[-1]] = found.rank
    results = DEFINITIONS[key(node)](body, wide, attributes(node))
    casts = [_narrow(node, slot, results[slot], types, version) for slot, name in enumerate(node.output) if name]
    return [*body.nodes, *casts]


def _narrow(node: NodeProto, slot: int, value: str, types: Mapping[str, TensorType], version: int) -> NodeProto:
    like = typed_like(node, slot)
    name = node.output[slot]
    if like is None:
        return helper.make_node("Cast", [value], [name], to=TensorProto.FLOAT)
    known = types.get(node.input[like]) or types.get(name)
    if known is not None and known.elem:
        return helper.make_node("Cast", [value], [name], to=known.elem)
    if version >= _CAST_LIKE:
        return helper.make_node("CastLike", [value, node.input[like]], [name])
    raise DefinitionError(
        f"the element type of {node.input[like]!r} is unknown, and CastLike would need opset {_CAST_LIKE}"
    )
