"""What norm operators mean, as subgraphs of plain operators: mean and variance in two passes, in float64.

Each function of `DEFINITIONS` reads float64 values and returns one name for each output of the operator. They are used where
an operator has no kernel here, or where a region of the original is to be evaluated in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
Key = tuple[str, str]  # domain ("" is the standard one) and operator
Attributes = Mapping[str, Any]

_MVN_GUARD = 1e-9  # the function body of MeanVarianceNormalization adds it to the standard deviation


def key(node: NodeProto) -> Key:
    """Domain and operator of `node`, the standard domain under one name."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


@dataclass(slots=True)
class Body:
    """The nodes of a subgraph under construction.

    Args:
        opset: version of the standard domain that they are written in.
        prefix: what the names of its values begin with.
        ranks: rank of every input whose rank is known, by the name it has here.
    """

    opset: int
    prefix: str
    ranks: dict[str, int] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return its name."""
        name = f"{self.prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def number(self, value: float) -> str:
        """Add a float64 scalar."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(value, np.float64)))

    def ints(self, *values: int) -> str:
        """Add an int64 vector."""
        return self.op("Constant", value=numpy_helper.from_array(np.asarray(values, np.int64)))

    def mean(self, value: str, axes: Sequence[int]) -> str:
        """Add ReduceMean over `axes`, extents kept."""
        if self.opset >= 18:
            return self.op("ReduceMean", value, self.ints(*axes), keepdims=1)
        return self.op("ReduceMean", value, axes=list(axes), keepdims=1)

    def reshape(self, value: str, *dims: int) -> str:
        """Add a Reshape to constant dims."""
        return self.op("Reshape", value, self.ints(*dims))

    def shaped_like(self, value: str, other: str) -> str:
        """Give `value` the shape of `other`."""
        return self.op("Reshape", value, self.op("Shape", other))

    def axes_from(self, value: str, axis: int) -> list[int]:
        """The axes from `axis` to the last, counted from the end.

        Raises:
            DefinitionError: `axis` is counted from the front and the rank is unknown.
        """
        if axis >= 0:
            if value not in self.ranks:
                raise DefinitionError("its axis is counted from the front and the rank of its input is unknown")
            axis -= self.ranks[value]
        return list(range(axis, 0))

    def rank(self, value: str) -> int:
        """The rank of an input.

        Raises:
            DefinitionError: it is unknown.
        """
        if value not in self.ranks:
            raise DefinitionError("the rank of its input is unknown")
        return self.ranks[value]


class DefinitionError(Exception):
    """The definition of an operator cannot be written down here; the text says why."""


Definition = Callable[[Body, Sequence[str], Attributes], list[str]]


@dataclass(frozen=True, slots=True)
class _Standardised:
    normal: str
    mean: str
    inverse: str


def _standardise(b: Body, x: str, axes: Sequence[int], epsilon: float, *, centred: bool = True) -> _Standardised:
    """(x − mean) / √(V + ε), or x / √(mean(x²) + ε)."""
    mean = b.mean(x, axes) if centred else ""
    deviation = b.op("Sub", x, mean) if centred else x
    moment = b.mean(b.op("Mul", deviation, deviation), axes)
    root = b.op("Sqrt", b.op("Add", moment, b.number(epsilon)))
    return _Standardised(b.op("Div", deviation, root), mean, b.op("Reciprocal", root))


def _affine(b: Body, normal: str, parameters: Sequence[str], dims: Sequence[int] = ()) -> str:
    """Multiply by the first parameter and add the second, each seen with `dims`; "" stands for none."""
    for kind, name in zip(("Mul", "Add"), parameters, strict=False):
        if name:
            normal = b.op(kind, normal, b.reshape(name, *dims) if dims else name)
    return normal


def _layer_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    axes = b.axes_from(inputs[0], int(attrs.get("axis", -1)))
    found = _standardise(b, inputs[0], axes, attrs.get("epsilon", 1e-5))
    return [_affine(b, found.normal, inputs[1:]), found.mean, found.inverse]


def _rms_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    axes = b.axes_from(inputs[0], int(attrs.get("axis", -1)))
    found = _standardise(b, inputs[0], axes, attrs.get("epsilon", 1e-5), centred=False)
    return [_affine(b, found.normal, inputs[1:2]), found.inverse]


def _sum(b: Body, parts: Sequence[str]) -> str:
    total = parts[0]
    for part in parts[1:]:
        total = b.op("Add", total, part) if part else total
    return total


def _skip_layer_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    x, skip, gamma, beta, bias = [*inputs, "", ""][:5]
    total = _sum(b, [x, skip, bias])
    found = _standardise(b, total, [-1], attrs.get("epsilon", 1e-12))
    return [_affine(b, found.normal, [gamma, beta]), found.mean, found.inverse, total]


def _skip_rms_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    x, skip, gamma, bias = [*inputs, ""][:4]
    total = _sum(b, [x, skip, bias])
    found = _standardise(b, total, [-1], attrs.get("epsilon", 1e-12), centred=False)
    return [_affine(b, found.normal, [gamma]), b.mean(total, [-1]), found.inverse, total]


def _instance_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    x = inputs[0]
    found = _standardise(b, b.reshape(x, 0, 0, -1), [-1], attrs.get("epsilon", 1e-5))
    return [b.shaped_like(_affine(b, found.normal, inputs[1:], (-1, 1)), x)]


def _group_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    """Scale and bias per group at opset 18, per channel from 21 on."""
    x, scale, bias = inputs
    found = _standardise(b, b.reshape(x, 0, int(attrs["num_groups"]), -1), [-1], attrs.get("epsilon", 1e-5))
    normal = found.normal
    if b.opset >= 21:
        normal = b.op("Reshape", normal, b.op("Concat", b.ints(0), b.op("Shape", scale), b.ints(-1), axis=0))
    return [b.shaped_like(_affine(b, normal, (scale, bias), (-1, 1)), x)]


def _variance_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    axes = list(attrs.get("axes", (0, 2, 3)))
    mean = b.mean(inputs[0], axes)
    deviation = b.op("Sub", inputs[0], mean)
    spread = b.op("Sqrt", b.mean(b.op("Mul", deviation, deviation), axes))
    return [b.op("Div", deviation, b.op("Add", spread, b.number(_MVN_GUARD)))]


def _contrib_group_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    x, gamma, beta = inputs[:3]
    return [b.shaped_like(_grouped(b, _flat(b, x, gamma, attrs), gamma, beta, attrs), x)]


def _skip_group_norm(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    """`skip` is [N, C], [N, 1, 1, C] or like x; in the flat view all three broadcast."""
    x, gamma, beta, skip, bias = [*inputs, ""][:5]
    shift = b.reshape(bias, *((-1,) if _channels_last(attrs) else (-1, 1))) if bias else ""
    total = _sum(b, [_flat(b, x, gamma, attrs), _flat(b, skip, gamma, attrs), shift])
    return [b.shaped_like(part, x) for part in (_grouped(b, total, gamma, beta, attrs), total)]


def _channels_last(attrs: Attributes) -> bool:
    return bool(attrs.get("channels_last", 1))


def _flat(b: Body, value: str, gamma: str, attrs: Attributes) -> str:
    """The value as [N, space, C], or [N, C, space]."""
    channels = b.op("Shape", gamma)
    parts = [b.ints(0, -1), channels] if _channels_last(attrs) else [b.ints(0), channels, b.ints(-1)]
    return b.op("Reshape", value, b.op("Concat", *parts, axis=0))


def _grouped(b: Body, flat: str, gamma: str, beta: str, attrs: Attributes) -> str:
    last = _channels_last(attrs)
    first = b.op("Transpose", flat, perm=[0, 2, 1]) if last else flat
    found = _standardise(b, b.reshape(first, 0, int(attrs["groups"]), -1), [-1], attrs.get("epsilon", 1e-5))
    y = _affine(b, b.shaped_like(found.normal, first), (gamma, beta), (-1, 1))
    if attrs.get("activation"):
        y = b.op("Mul", y, b.op("Sigmoid", y))
    return b.op("Transpose", y, perm=[0, 2, 1]) if last else y


def _global_average(b: Body, inputs: Sequence[str], attrs: Attributes) -> list[str]:
    return [b.mean(inputs[0], [axis - b.rank(inputs[0]) for axis in range(2, b.rank(inputs[0]))])]


DEFINITIONS: dict[Key, Definition] = {
    ("", "LayerNormalization"): _layer_norm,
    ("", "RMSNormalization"): _rms_norm,
    ("", "SimplifiedLayerNormalization"): _rms_norm,
    ("", "InstanceNormalization"): _instance_norm,
    ("", "GroupNormalization"): _group_norm,
    ("", "MeanVarianceNormalization"): _variance_norm,
    ("", "GlobalAveragePool"): _global_average,
    (MICROSOFT, "SkipLayerNormalization"): _skip_layer_norm,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _skip_rms_norm,
    (MICROSOFT, "GroupNorm"): _contrib_group_norm,
    (MICROSOFT, "SkipGroupNorm"): _skip_group_norm,
}

# Statistics that these operators give out are float32 (their stash type), whatever the input is.
_STATISTICS: dict[Key, tuple[int, ...]] = {
    ("", "LayerNormalization"): (1, 2),
    ("", "SimplifiedLayerNormalization"): (1,),
    (MICROSOFT, "SkipLayerNormalization"): (1, 2),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): (1, 2),
}


# Of the standard domain: not in the standard at all, or typed only through a function body that needs the whole model.
_UNTYPED = ("SimplifiedLayerNormalization", "GroupNormalization")


def typed_like(node: NodeProto, output: int) -> int | None:
    """The slot of the input whose element type an output has; None where it is float32 statistics."""
    if output in _STATISTICS.get(key(node), ()):
        return None
    by_scale = node.op_type in ("RMSNormalization", "SimplifiedLayerNormalization")
    return 1 if by_scale and output == 0 else 0


def nhwc_conv(node: NodeProto, prefix: str) -> list[NodeProto]:
    """`com.microsoft.NhwcConv` of x [N, *space, C] and w [M, *space, C / group] as Transposes around a Conv, rank 4."""
    names = [f"{prefix}{part}" for part in ("x", "w", "y")]
    conv = helper.make_node("Conv", [*names[:2], *node.input[2:]], [names[2]])
    conv.attribute.extend(node.attribute)
    return [
        helper.make_node("Transpose", [node.input[0]], [names[0]], perm=[0, 3, 1, 2]),
        helper.make_node("Transpose", [node.input[1]], [names[1]], perm=[0, 3, 1, 2]),
        conv,
        helper.make_node("Transpose", [names[2]], [node.output[0]], perm=[0, 2, 3, 1]),
    ]


def stand_ins(node: NodeProto, elems: Mapping[str, int]) -> list[NodeProto]:
    """Standard operators that have the types and shapes of `node`, for inference; [node] where it is standard itself.

    Args:
        node: any node.
        elems: element types of initializers, by name.
    """
    if key(node) == (MICROSOFT, "NhwcConv"):
        return nhwc_conv(node, f"{node.output[0]}::type")
    if key(node) not in DEFINITIONS or not (node.domain or node.op_type in _UNTYPED):
        return [node]
    found = []
    for slot, name in enumerate(node.output):
        source = typed_like(node, slot)
        if name and source is not None:
            elem = elems.get(node.input[source]) if source else None
            found.append(
                helper.make_node("Identity", [node.input[0]], [name])
                if elem is None
                else helper.make_node("Cast", [node.input[0]], [name], to=elem)
            )
        elif name:  # [.., 1] in float32
            wide = f"{name}::type"
            found.append(helper.make_node("Cast", [node.input[0]], [wide], to=TensorProto.FLOAT))
            # a reduction along the last axis, in the one form that did not change between opsets
            found.append(helper.make_node("ArgMax", [wide], [f"{wide}1"], axis=-1, keepdims=1))
            found.append(helper.make_node("Cast", [f"{wide}1"], [name], to=TensorProto.FLOAT))
    return found
