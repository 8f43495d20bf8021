"""Which norms have one structure: what was confirmed thoroughly for one of them needs less for the others."""

from __future__ import annotations

from normfold.model.constants import Constants
from normfold.model.graph import Value
from normfold.norm.recognise import NormSite


def signature(constants: Constants, site: NormSite) -> object:
    """Equal for norms whose nodes, attributes, wiring, shapes and scalar constants are equal.

    Two such norms differ in the elements of gamma and beta alone.
    """
    made: dict[int, object] = {id(site.base): "x"}
    nodes: list[object] = []
    for i, node in enumerate(site.nodes):
        inputs = tuple(_operand(constants, made, value) for value in node.inputs)
        attributes = tuple(sorted((a.name, a.SerializeToString(deterministic=True)) for a in node.proto.attribute))
        nodes.append((node.domain, node.op_type, node.scope.version, attributes, inputs))
        made |= {id(value): (i, slot) for slot, value in enumerate(node.outputs) if value is not None}
    norm = site.norm
    meaning = (norm.centred, norm.dims, norm.axes, norm.epsilon, norm.groups, norm.channel, norm.input_type, site.snap)
    shapes = tuple(None if p is None else p.shape for p in (norm.gamma, norm.beta))
    return tuple(nodes), meaning, shapes


def _operand(constants: Constants, made: dict[int, object], value: Value | None) -> object:
    if value is None or id(value) in made:
        return None if value is None else made[id(value)]
    source = constants.get(value)
    if source is None:
        return id(value)
    if len(source.dims) > 1 or any(size > 4 for size in source.dims):
        return source.data_type, source.dims
    array = constants.array(value)
    return source.data_type, source.dims, None if array is None else array.tobytes()
