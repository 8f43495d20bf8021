"""A random model with parts of its graph moved into model-local functions, which must change nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper

from tests.fuzz.generator import reads

DOMAIN = "fuzz"
_BINDABLE = (AttributeProto.INT, AttributeProto.FLOAT, AttributeProto.INTS, AttributeProto.STRING)


def outlined(model: ModelProto, seed: int) -> ModelProto | None:
    """The model with up to four runs of nodes as functions, calls inside of calls included; None if it is too short."""
    rng = np.random.default_rng([seed, 7])
    result = ModelProto.FromString(model.SerializeToString())
    result.ir_version = max(result.ir_version, 8)
    if len(result.graph.node) < 2:
        return None
    result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    for index in range(int(rng.integers(1, 5))):
        first = int(rng.integers(len(result.graph.node)))
        count = int(rng.integers(1, 7))
        _Outliner(result, rng, index).move(first, min(len(result.graph.node), first + count))
    return result


class _Outliner:
    def __init__(self, model: ModelProto, rng: np.random.Generator, index: int) -> None:
        self.model, self.rng, self.index = model, rng, index
        self.attributes: dict[str, AttributeProto] = {}

    def move(self, first: int, last: int) -> None:
        """Nodes first to last - 1 become a function."""
        graph = self.model.graph
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node[first:last]]
        made = [name for node in nodes for name in node.output if name]
        inputs = list(dict.fromkeys(name for node in nodes for name in reads(node) if name and name not in made))
        others = [*graph.node[:first], *graph.node[last:]]
        read = {name for node in others for name in reads(node)} | {value.name for value in graph.output}
        outputs = [name for name in made if name in read] or made[-1:]
        names = self._names([*inputs, *made], nodes)
        for node in nodes:
            rename(node, names)
            self._bind(node)
        name = f"F{self.index}"
        imports = list(self.model.opset_import)
        function = helper.make_function(
            DOMAIN, name, [names[n] for n in inputs], [names[n] for n in outputs], nodes, imports, list(self.attributes)
        )
        self.model.functions.append(FunctionProto.FromString(function.SerializeToString()))
        call = helper.make_node(name, inputs, outputs, domain=DOMAIN)
        for key, value in self.attributes.items():
            call.attribute.add().CopyFrom(value)
            call.attribute[-1].name = key
        kept = [*graph.node[:first], call, *graph.node[last:]]
        del graph.node[:]
        graph.node.extend(kept)

    def _names(self, wanted: list[str], nodes: list[NodeProto]) -> dict[str, str]:
        """Names of the body: mostly such that mean something else in the graph."""
        inside = {name for node in nodes for graph in graphs(node) for name in _all_defined(graph)}
        taken = [tensor.name for tensor in self.model.graph.initializer]
        taken += [name for node in self.model.graph.node for name in node.output]
        free = [name for name in dict.fromkeys(taken) if name and name not in inside]
        order = [free[i] for i in self.rng.permutation(len(free))] + [f"local{i}" for i in range(len(wanted))]
        return dict(zip(dict.fromkeys(wanted), order, strict=False))

    def _bind(self, node: NodeProto) -> None:
        """Some attributes get their value where the function is called."""
        for attribute in node.attribute:
            if attribute.type not in _BINDABLE or attribute.ref_attr_name or self.rng.random() > 0.3:
                continue
            name = f"a{len(self.attributes)}"
            self.attributes[name] = AttributeProto.FromString(attribute.SerializeToString())
            kind, own = attribute.type, attribute.name
            attribute.Clear()
            attribute.name, attribute.type, attribute.ref_attr_name = own, kind, name


def graphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among the attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _defined(graph: GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.initializer)}
    return names | {name for node in graph.node for name in node.output}


def _all_defined(graph: GraphProto) -> set[str]:
    return _defined(graph).union(*(_all_defined(inner) for node in graph.node for inner in graphs(node)))


def rename(node: NodeProto, names: dict[str, str]) -> None:
    """Other names for what a node reads and makes; what graphs inside define keeps its own."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for graph in graphs(node):
        own = _defined(graph)
        visible = {old: new for old, new in names.items() if old not in own}
        for part in graph.node:
            rename(part, visible)
        for value in graph.output:
            value.name = visible.get(value.name, value.name)
