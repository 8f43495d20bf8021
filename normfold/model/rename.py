"""A node of a function body as it stands where the function is called: other names, attributes bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from onnx import AttributeProto, GraphProto, NodeProto

Fresh = Callable[[str], str]


def specialise(node: NodeProto, names: Mapping[str, str], bound: Mapping[str, AttributeProto], fresh: Fresh) -> None:
    """Rename what a node reads and makes, and give attributes that refer to the call the value that they have there.

    Args:
        node: changed in place, with all graphs inside of it.
        names: of the values of the body, by their name there; "" for an input that the call leaves out.
        bound: attributes of the call, and defaults; one that is in neither is left out.
        fresh: a name that nobody has, made from one of the body; for what graphs inside define, who could otherwise capture
            a value of the caller.
    """
    pending: list[tuple[NodeProto, Mapping[str, str]]] = [(node, names)]
    while pending:
        current, visible = pending.pop()
        _rename(current, visible, fresh)
        _bind(current, bound)
        for graph in _graphs(current):
            inside = {**visible, **{name: fresh(name) for name in _defined(graph)}}
            _rename_graph(graph, inside)
            pending += [(inner, inside) for inner in graph.node]


def _rename(node: NodeProto, names: Mapping[str, str], fresh: Fresh) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    if node.name:
        node.name = fresh(node.name)


def _bind(node: NodeProto, bound: Mapping[str, AttributeProto]) -> None:
    if not any(attribute.ref_attr_name for attribute in node.attribute):
        return
    attributes = list(node.attribute)
    del node.attribute[:]
    for attribute in attributes:
        if not attribute.ref_attr_name:
            node.attribute.append(attribute)
        elif attribute.ref_attr_name in bound:
            value = node.attribute.add()
            value.CopyFrom(bound[attribute.ref_attr_name])
            value.name = attribute.name


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _defined(graph: GraphProto) -> dict[str, None]:
    """The names that a graph defines itself, in a fixed order."""
    names = [value.name for value in graph.input]
    names += [tensor.name for tensor in graph.initializer]
    names += [sparse.values.name for sparse in graph.sparse_initializer]
    names += [name for node in graph.node for name in node.output]
    return dict.fromkeys(name for name in names if name)


def _rename_graph(graph: GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = names.get(annotation.tensor_name, annotation.tensor_name)
        for entry in annotation.quant_parameter_tensor_names:
            entry.value = names.get(entry.value, entry.value)
