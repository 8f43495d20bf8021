"""Operators of onnxruntime that add, normalise and activate in one, for targets that do not have them.

Their meaning is that of the operator, so there is nothing to recognise: what is read here is the norm, which is of a sum that
is no value of the graph, and what stands around it. The norm is offered to the target like any other, and what it becomes gets
the additions in front and the activation behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from normfold.model import attributes
from normfold.model.dtypes import is_float
from normfold.model.graph import Node, Value
from normfold.model.load import Model
from normfold.model.shapes import Dims, Shapes
from normfold.norm.meaning import Float64, Norm, Surroundings
from normfold.norm.recognise import NormSite
from normfold.norm.transfer.composites import epsilon_of
from normfold.surgery.norms.surroundings import Around, Extent
from normfold.targets.lowering import MICROSOFT, SUM, Constant, Given, Lowering, Op, X, Y
from normfold.targets.reasons import Cannot

_INT64 = 7
_BROADCASTS = 7  # the opset from which on Add takes operands of different ranks


@dataclass(frozen=True, slots=True)
class _Operator:
    """Where an operator has what.

    Args:
        bias: slot of beta, None where there is none; gamma is in the slot before.
        added: slots of what is added to the first input.
        total: the output that is the sum, None where the operator does not give it out.
        centred: whether the mean is subtracted.
        epsilon: what it is where the attribute is absent.
        grouped: whether it normalises groups of channels.
    """

    scale: int
    bias: int | None
    added: tuple[int, ...]
    total: int | None
    epsilon: float
    centred: bool = True
    grouped: bool = False


_OPERATORS: Mapping[str, _Operator] = {
    "SkipLayerNormalization": _Operator(2, 3, (1, 4), 3, 1e-12),
    "SkipSimplifiedLayerNormalization": _Operator(2, None, (1, 3), 3, 1e-12, centred=False),
    "GroupNorm": _Operator(1, 2, (), None, 1e-5, grouped=True),
    "SkipGroupNorm": _Operator(1, 2, (3, 4), 1, 1e-5, grouped=True),
}


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """What is added: the name of a tensor, and the shape for a Reshape that lets it broadcast; None where it does so."""

    name: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """One of these operators.

    Args:
        site: the norm; its base is the first input of the operator, and what is normalised that plus the terms.
        terms: what is added, in the order in which it is.
        silu: whether the result goes through y·Sigmoid(y).
        total: the sum, None where nobody reads it.
    """

    site: NormSite
    terms: tuple[Term, ...]
    silu: bool
    total: Value | None

    @property
    def around(self) -> Around:
        """What a target is told."""
        return Around(Surroundings(silu=self.silu))

    def extent(self) -> Extent:
        """What goes with it: the operator alone."""
        return Extent((self.site.end,), self.site.output, self.total, self.site.end)

    def describe(self, lowering: Lowering) -> str:
        """What it becomes, in a few words: `2 Add, LayerNormalization`."""
        count = len(self.terms)
        front = [f"{count} Add" if count > 1 else "Add"] if count else []
        behind = ["Sigmoid, Mul"] if self.silu and not lowering.takes_silu else []
        return ", ".join([*front, lowering.operator, *behind])

    def beside(self) -> str:
        """What it does beside the norm, in a few words: ` of a sum of 2 tensors, SiLU behind`; empty if nothing."""
        parts = [f" of a sum of {len(self.terms) + 1} tensors" if self.terms else ""]
        parts += ["which is a result as well"] if self.total is not None else []
        parts += ["SiLU behind"] if self.silu else []
        return ", ".join(parts)

    def written(self, lowering: Lowering) -> Lowering:
        """What a norm becomes, with the additions in front and the activation behind."""
        front, constants = self._sum()
        nodes = list(lowering.nodes)
        if front:
            nodes = [_renamed(op, X, SUM) for op in nodes]
        behind: list[Op] = []
        if self.silu and not lowering.takes_silu:
            nodes = [_renamed(op, Y, "normal") for op in nodes]
            behind = [Op("Sigmoid", ("normal",), ("gate",)), Op("Mul", ("normal", "gate"), (Y,))]
        return replace(
            lowering,
            nodes=(*front, *nodes, *behind),
            constants=(*constants, *lowering.constants),
            opset=max(lowering.opset, _BROADCASTS),
        )

    def _sum(self) -> tuple[list[Op], list[Constant]]:
        nodes: list[Op] = []
        constants: list[Constant] = []
        value: str = X
        for i, term in enumerate(self.terms):
            name: str = Given(term.name)
            if term.shape is not None:
                constants.append(Constant(f"term_shape_{i}", np.array(term.shape, np.int64), _INT64))
                nodes.append(Op("Reshape", (name, f"term_shape_{i}"), (f"term_{i}",)))
                name = f"term_{i}"
            total = SUM if i == len(self.terms) - 1 else f"sum_{i}"
            nodes.append(Op("Add", (value, name), (total,)))
            value = total
        return nodes, constants


def is_fused(node: Node) -> bool:
    """Whether a node adds or activates beside a norm, in one operator of onnxruntime."""
    if node.domain != MICROSOFT or node.is_call or node.op_type not in _OPERATORS:
        return False
    activation = node.attributes.get("activation")
    is_plain = activation is None or not (activation.i or activation.ref_attr_name)
    return node.op_type != "GroupNorm" or not is_plain  # a plain one is recognised like any other norm


def fused_nodes(model: Model) -> list[Node]:
    """All of them, in execution order."""
    return [node for scope in model.scopes() for node in scope.nodes if is_fused(node)]


def read_fused(shapes: Shapes, node: Node) -> Fused:
    """What an operator means.

    Raises:
        Cannot: it cannot be said in other operators; the message says why.
    """
    if node.is_bound_by_caller:
        raise Cannot("parameters", "the caller of a function gives its attributes")
    found = _OPERATORS[node.op_type]
    known = ("epsilon", "groups", "activation", "channels_last") if found.grouped else ("epsilon",)
    other = next((name for name in node.attributes if name not in known), None)
    if other is not None:
        raise Cannot("parameters", f"its attribute {other!r} has no known meaning")
    for slot, value in enumerate(node.outputs):
        if slot not in (0, found.total) and value is not None and (value.uses or value.is_output):
            raise Cannot("parameters", f"its output {value.name!r} is read, which other operators do not make")
    base, output = node.input(0), node.outputs[0] if node.outputs else None
    if base is None or output is None or any(node.input(slot) is None for slot in (found.scale, *found.added[:1])):
        raise Cannot("parameters", "an input or the output is missing")
    norm = _grouped(shapes, node, found, base) if found.grouped else _over_last(shapes, node, found, base)
    names = (norm.scale, norm.bias)
    operands = tuple(value for value in node.inputs if value is not None and value.name in names)
    total = node.outputs[found.total] if found.total is not None and found.total < len(node.outputs) else None
    if total is not None and not total.uses and not total.is_output:
        total = None
    silu = bool(attributes.get(node, "activation", 0)) and found.grouped
    site = NormSite(norm, base, output, (node,), (node,), 0.0, (), operands)
    return Fused(site, tuple(_terms(shapes, node, found)), silu, total)


# --- what it means ---


def _over_last(shapes: Shapes, node: Node, found: _Operator, base: Value) -> Norm:
    dims = shapes.dims(base)
    skip = node.input(found.added[0])
    if dims is None and skip is not None and shapes.rank(skip) == 3:
        dims = (None, None, None)  # the first input has rank 2 or 3, and no less than what is added to it
    if dims is None:
        raise Cannot("rank", "the rank of its input is not known")
    kind = _float_type(shapes, base)
    gamma, scale = _parameter(shapes, node.input(found.scale), len(dims), len(dims) - 1)
    beta, bias = _parameter(shapes, None if found.bias is None else node.input(found.bias), len(dims), len(dims) - 1)
    epsilon = epsilon_of(node) if "epsilon" in node.attributes else float(np.float32(found.epsilon))
    return Norm(found.centred, dims, (len(dims) - 1,), epsilon, gamma, beta, kind, kind, kind, scale=scale, bias=bias)


def _grouped(shapes: Shapes, node: Node, found: _Operator, base: Value) -> Norm:
    dims, kind = shapes.dims(base), _float_type(shapes, base)
    groups, activation = int(attributes.get(node, "groups", 0)), int(attributes.get(node, "activation", 0))
    if dims is None or len(dims) != 4:
        raise Cannot("rank", "its input is not known to have rank 4")
    if groups < 1 or activation not in (0, 1):
        raise Cannot("groups", f"it has {groups} groups and activation {activation}")
    channel = 3 if attributes.get(node, "channels_last", 1) else 1
    if found.added and channel != 3:
        raise Cannot("layout", "what it adds is defined for channels at the end alone")
    parameters = [_parameter(shapes, node.input(slot), 4, channel) for slot in (found.scale, found.scale + 1)]
    (gamma, scale), (beta, bias) = parameters
    if scale is not None or bias is not None or gamma is None:
        raise Cannot("parameters", "its scale and bias are no constants")
    if gamma.size % groups:
        raise Cannot("groups", f"C = {gamma.size} is no multiple of G = {groups}")
    dims = tuple(gamma.size if axis == channel else dim for axis, dim in enumerate(dims))
    axes = tuple(axis for axis in (1, 2, 3) if axis != channel)
    source = shapes.constants.get(node.input(found.scale))
    stored = kind if source is None else source.data_type
    return Norm(True, dims, axes, epsilon_of(node), gamma, beta, kind, kind, stored, groups, channel)


def _float_type(shapes: Shapes, value: Value) -> int:
    kind = shapes.data_type(value)
    if kind is None or not is_float(kind):
        raise Cannot("element-type", "the element type of its input is not known")
    return kind


def _parameter(shapes: Shapes, value: Value | None, rank: int, axis: int) -> tuple[Float64 | None, str | None]:
    """A vector along a dimension: its elements, or its name where it is no constant."""
    if value is None:
        return None, None
    source = shapes.constants.get(value)
    if source is None:
        return None, value.name
    if len(source.dims) != 1 or not is_float(source.data_type):
        raise Cannot("parameters", f"{value.name!r} is no vector of numbers")
    shape = [1] * rank
    shape[axis] = source.dims[0]
    return np.asarray(source.array(), np.float64).reshape(shape), None


def _terms(shapes: Shapes, node: Node, found: _Operator) -> list[Term]:
    terms = []
    for slot in found.added:
        value = node.input(slot)
        if value is not None:
            terms.append(Term(value.name, _shape(shapes.dims(value), value) if found.grouped else None))
    return terms


def _shape(dims: Dims | None, value: Value) -> tuple[int, ...] | None:
    """What `[N, C]` is reshaped to, to be added to `[N, H, W, C]`; None for `[C]` and `[N, 1, 1, C]`, which broadcast."""
    if dims is None or len(dims) not in (1, 2, 4):
        raise Cannot("rank", f"{value.name!r} is not known to be of rank 1, 2 or 4")
    return (0, 1, 1, -1) if len(dims) == 2 else None


def _renamed(op: Op, old: str, new: str) -> Op:
    """A node with another placeholder; names of the graph are none, however they read."""

    def name(item: str) -> str:
        return new if item == old and not isinstance(item, Given) else item

    return replace(op, inputs=tuple(name(item) for item in op.inputs), outputs=tuple(name(item) for item in op.outputs))
