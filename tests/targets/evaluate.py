"""What a norm means and what a lowering computes, both in float64: every operator by its definition, none by a runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normfold.model.dtypes import stored
from normfold.norm.meaning import Norm
from normfold.targets.lowering import Given, Lowering, Op, X, Y

Array = NDArray[Any]


def definition(norm: Norm, x: Array, given: Mapping[str, Array]) -> Array:
    """y = gamma · (x - c·mean) / sqrt(V + epsilon) + beta."""
    view, axes = x, norm.axes
    if norm.groups is not None and norm.channel is not None:
        c = norm.channel
        view = x.reshape(*x.shape[:c], norm.groups, x.shape[c] // norm.groups, *x.shape[c + 1 :])
        axes = tuple(sorted((c + 1, *(axis + (axis > c) for axis in axes))))
    core = _normal(view, axes, norm.epsilon, centred=norm.centred).reshape(x.shape)
    gamma = norm.gamma if norm.scale is None else given[norm.scale]
    beta = norm.beta if norm.bias is None else given[norm.bias]
    core = core if gamma is None else core * gamma
    return core if beta is None else core + beta


def evaluate(lowering: Lowering, x: Array | None, given: Mapping[str, Array]) -> dict[str, Array]:
    """All tensors that the nodes make. Constants are rounded as they are stored, nothing else is rounded."""
    values: dict[str, Array] = {}
    for constant in lowering.constants:
        is_float = np.asarray(constant.values).dtype.kind == "f"
        values[constant.name] = stored(constant.values, constant.data_type) if is_float else constant.values
    if x is not None:
        values[X] = x
    made: dict[str, Array] = {}
    for node in lowering.nodes:
        operands = [_operand(name, values, given) for name in node.inputs]
        for name, result in zip(node.outputs, OPERATORS[node.op_type](node, operands), strict=False):
            if name:
                values[name] = made[name] = result
    assert made[Y].dtype == np.float64
    return made


def _operand(name: str, values: Mapping[str, Array], given: Mapping[str, Array]) -> Array | None:
    if not name:
        return None
    return given[name] if isinstance(name, Given) else values[name]


def _normal(x: Array, axes: tuple[int, ...], epsilon: float, *, centred: bool) -> Array:
    deviation = x - x.mean(axes, keepdims=True) if centred else x
    return deviation / np.sqrt((deviation**2).mean(axes, keepdims=True) + epsilon)


def _layer(node: Op, v: list[Any], centred: bool = True) -> list[Array]:
    axis = node.attributes["axis"] % v[0].ndim
    assert node.attributes["axis"] < 0
    core = _normal(v[0], tuple(range(axis, v[0].ndim)), node.attributes["epsilon"], centred=centred) * v[1]
    assert core.shape == v[0].shape
    return [core if len(v) < 3 or v[2] is None else core + v[2]]


def _channels(parameter: Array, rank: int, axis: int = 1) -> Array:
    assert parameter.ndim == 1
    return parameter.reshape([-1 if a == axis else 1 for a in range(rank)])


def _instance(node: Op, v: list[Any]) -> list[Array]:
    rank = v[0].ndim
    assert rank > 2
    assert v[1].shape == v[2].shape == (v[0].shape[1],)
    core = _normal(v[0], tuple(range(2, rank)), node.attributes["epsilon"], centred=True)
    return [core * _channels(v[1], rank) + _channels(v[2], rank)]


def _batch(node: Op, v: list[Any]) -> list[Array]:
    scale, bias, mean, variance = (_channels(p, v[0].ndim) for p in v[1:])
    return [(v[0] - mean) / np.sqrt(variance + node.attributes["epsilon"]) * scale + bias]


def _group(x: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    assert scale.shape == bias.shape == (x.shape[1],)
    rows = x.reshape(x.shape[0], groups, -1)
    core = _normal(rows, (2,), epsilon, centred=True).reshape(x.shape)
    return core * _channels(scale, x.ndim) + _channels(bias, x.ndim)


def _standard_group(node: Op, v: list[Any]) -> list[Array]:
    return [_group(v[0], v[1], v[2], node.attributes["num_groups"], node.attributes["epsilon"])]


def _contrib_group(node: Op, v: list[Any]) -> list[Array]:
    a, x = node.attributes, v[0]
    if len(v) > 3:
        skip = v[3].reshape(v[3].shape[0], 1, 1, -1) if v[3].ndim == 2 else v[3]
        x = x + skip + (0.0 if len(v) < 5 or v[4] is None else v[4])
    first = x.transpose(0, 3, 1, 2) if a["channels_last"] else x
    y = _group(first, v[1], v[2], a["groups"], a["epsilon"])
    y = y / (1.0 + np.exp(-y)) if a["activation"] else y
    return [y.transpose(0, 2, 3, 1) if a["channels_last"] else y, x]


def _skip(node: Op, v: list[Any], centred: bool) -> list[Any]:
    x, gamma, rest = v[0] + v[1], v[2], v[3:]
    beta = rest.pop(0) if centred and rest else None
    assert gamma.shape == x.shape[-1:]
    x = x if not rest or rest[0] is None else x + rest[0]
    core = _normal(x, (x.ndim - 1,), node.attributes["epsilon"], centred=centred) * gamma
    return [core if beta is None else core + beta, None, None, x]


def _reshape(node: Op, v: list[Any]) -> list[Array]:
    return [v[0].reshape([v[0].shape[k] if extent == 0 else extent for k, extent in enumerate(v[1].tolist())])]


def _mean(node: Op, v: list[Any]) -> list[Array]:
    axes = node.attributes["axes"] if len(v) == 1 else v[1].tolist()
    return [v[0].mean(tuple(axes), keepdims=bool(node.attributes["keepdims"]))]


def _elementwise(function: Callable[..., Array]) -> Callable[[Op, list[Any]], list[Array]]:
    return lambda _, v: [function(*v)]


OPERATORS: dict[str, Callable[[Op, list[Any]], list[Any]]] = {
    "LayerNormalization": _layer,
    "RMSNormalization": lambda node, v: _layer(node, v, centred=False),
    "SimplifiedLayerNormalization": lambda node, v: _layer(node, v, centred=False),
    "SkipLayerNormalization": lambda node, v: _skip(node, v, centred=True),
    "SkipSimplifiedLayerNormalization": lambda node, v: _skip(node, v, centred=False),
    "InstanceNormalization": _instance,
    "BatchNormalization": _batch,
    "GroupNormalization": _standard_group,
    "GroupNorm": _contrib_group,
    "SkipGroupNorm": _contrib_group,
    "Reshape": _reshape,
    "ReduceMean": _mean,
    "Transpose": lambda node, v: [v[0].transpose(node.attributes["perm"])],
    "Cast": lambda _, v: [v[0]],
    "Shape": lambda _, v: [np.array(v[0].shape)],
    "Add": _elementwise(np.add),
    "Sub": _elementwise(np.subtract),
    "Mul": _elementwise(np.multiply),
    "Div": _elementwise(np.divide),
    "Pow": _elementwise(np.power),
    "Sqrt": _elementwise(np.sqrt),
    "Reciprocal": _elementwise(np.reciprocal),
}
