"""What stands around a norm and may go into its operator: the Add in front of it, and the SiLU behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from normfold.model import attributes, dtypes
from normfold.model.graph import Node, Value
from normfold.model.rewrite import sweep
from normfold.model.shapes import Shapes
from normfold.norm.meaning import Float64, Residual, Surroundings
from normfold.norm.recognise import NormSite
from normfold.targets.lowering import Lowering

_OLDEST_BROADCAST = 7


@dataclass(frozen=True, slots=True, eq=False)
class Around:
    """The surroundings of a norm, with the nodes that they are.

    Args:
        meaning: what a target is told.
        adds: the Adds in front, the last one first; they go with a residual or an embedding.
        silu: Sigmoid and Mul behind; they go with the activation.
    """

    meaning: Surroundings
    adds: tuple[Node, ...] = ()
    silu: tuple[Node, ...] = ()


NOTHING = Around(Surroundings())


def look_around(shapes: Shapes, site: NormSite) -> Around:
    """The surroundings of a norm."""
    silu = _silu(site.output)
    found = _residual(shapes, site) or _embedding(shapes, site) or NOTHING
    return replace(found, meaning=replace(found.meaning, silu=bool(silu)), silu=silu)


def alone(around: Around) -> Around:
    """The surroundings without what stands in front."""
    return replace(NOTHING, meaning=replace(NOTHING.meaning, silu=around.meaning.silu), silu=around.silu)


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """What goes and what comes with a lowering.

    Args:
        dead: nodes that go.
        output: what the new nodes make.
        total: the sum that they make as well, None if nobody else reads it.
        place: the node in whose place they stand.
    """

    dead: tuple[Node, ...]
    output: Value
    total: Value | None
    place: Node


def extent_of(site: NormSite, around: Around, lowering: Lowering) -> Extent:
    """What a lowering takes with it."""
    dead, output, total, place = site.dead, site.output, None, site.end
    if lowering.takes_residual or lowering.takes_embedding:
        residual = around.meaning.residual
        dead = (*dead, *around.adds)
        if residual is not None and residual.is_read:
            total, place = site.base, around.adds[0]  # somebody may read the sum before the norm is done
    if lowering.takes_silu:
        dead = (*dead, *around.silu)
        output = around.silu[-1].output
    return Extent(dead, output, total, place)


# --- in front ---


def _residual(shapes: Shapes, site: NormSite) -> Around | None:
    """`base = left + right`, perhaps with a constant of the last dimension."""
    outer = _plain_add(site.base)
    if outer is None or outer.scope is not site.end.scope:
        return None
    adds, terms, bias = [outer], list(outer.inputs), None
    for i, term in enumerate(outer.inputs):
        constant = _vector(shapes, term, site)
        inner = None if constant is not None else _private_add(term)
        if constant is not None:
            rest = _private_add(outer.inputs[1 - i])
            if rest is None or bias is not None:
                return None
            bias, terms = constant, list(rest.inputs)
            adds.append(rest)
            break
        found = None if inner is None else _with_bias(shapes, inner, site)
        if inner is not None and found is not None and bias is None:
            bias, terms[i] = found
            adds.append(inner)
    if not all(_is_like(shapes, term, site) for term in terms):
        return None
    left, right = (term.name for term in terms if term is not None)
    is_read = _is_read(site)
    if is_read and not all(_comes_before(value, outer) for value in site.operands):
        return None  # the operator makes the sum, so it stands where that was made
    return Around(Surroundings(Residual(left, right, bias, is_read)), tuple(adds))


def _is_read(site: NormSite) -> bool:
    """Whether somebody needs x when the norm is gone; what only computes sizes for the norm goes with it."""
    gone = {id(node) for node in sweep(site.dead, {site.base.name})}
    return site.base.is_output or any(id(use.node) not in gone for use in site.base.uses)


def _comes_before(value: Value, node: Node) -> bool:
    """Whether a node could read a value."""
    maker = value.producer
    return maker is None or maker.scope is not node.scope or maker.index < node.index


def _plain_add(value: Value | None) -> Node | None:
    node = None if value is None else value.producer
    if node is None or node.domain or node.op_type != "Add" or len(node.inputs) != 2:
        return None
    return node if node.scope.version >= _OLDEST_BROADCAST and not attributes.unexpected(node, ()) else None


def _private_add(value: Value | None) -> Node | None:
    """The Add that makes a value which one node alone reads."""
    node = _plain_add(value)
    return node if node is not None and value is not None and len(value.uses) == 1 and not value.is_output else None


def _with_bias(shapes: Shapes, add: Node, site: NormSite) -> tuple[Float64, Value | None] | None:
    """The constant and the other operand of an Add."""
    for i, term in enumerate(add.inputs):
        constant = _vector(shapes, term, site)
        if constant is not None:
            return constant, add.inputs[1 - i]
    return None


def _vector(shapes: Shapes, value: Value | None, site: NormSite) -> Float64 | None:
    """A constant that varies along the last dimension alone, as long as that."""
    source = None if value is None else shapes.constants.get(value)
    last = site.norm.dims[-1]
    if source is None or not isinstance(last, int) or not source.dims or source.dims[-1] != last:
        return None
    if any(size != 1 for size in source.dims[:-1]) or len(source.dims) > site.norm.rank:
        return None
    if not dtypes.is_float(source.data_type):
        return None
    return np.asarray(source.array(), np.float64).reshape(-1)


def _is_like(shapes: Shapes, value: Value | None, site: NormSite) -> bool:
    """Whether an operand is proven to have the shape of the sum; one that is constant has no place in the operator."""
    if value is None or shapes.constants.get(value) is not None:
        return False
    dims = shapes.dims(value)
    return dims is not None and dims == site.norm.dims and None not in dims


def _embedding(shapes: Shapes, site: NormSite) -> Around | None:
    """`base = x + e` with one value of e per sample and channel."""
    add = _plain_add(site.base)
    if add is None or site.norm.rank != 4 or add.scope is not site.end.scope:
        return None
    if _is_read(site):
        return None
    for i, value in enumerate(add.inputs):
        dims = None if value is None else shapes.dims(value)
        other = add.inputs[1 - i]
        if value is None or other is None or dims is None or None in dims or shapes.constants.get(value) is not None:
            continue
        if dims == (*site.norm.dims[:2], 1, 1) and shapes.dims(other) == site.norm.dims:
            return Around(Surroundings(None, value.name, other.name), (add,))
    return None


# --- behind ---


def _silu(output: Value) -> tuple[Node, ...]:
    """The nodes of `y · Sigmoid(y)`, where nobody else reads y."""
    if output.is_output:
        return ()
    nodes = {id(use.node): use.node for use in output.uses}
    found = sorted(nodes.values(), key=lambda node: node.op_type)
    if [node.op_type for node in found] != ["Mul", "Sigmoid"] or any(node.domain for node in found):
        return ()
    product, sigmoid = found
    if sigmoid.output.is_output or [use.node for use in sigmoid.output.uses] != [product]:
        return ()
    if {id(value) for value in product.inputs} != {id(output), id(sigmoid.output)} or len(product.inputs) != 2:
        return ()
    if any(attributes.unexpected(node, ()) for node in found) or product.scope is not sigmoid.scope:
        return ()
    if sigmoid.scope is not output.scope or product.scope.version < _OLDEST_BROADCAST:
        return ()
    return sigmoid, product
