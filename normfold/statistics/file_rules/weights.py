"""The linear operator in front of a BatchNormalization, and its weights with output channels first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from normfold.model import attributes, dtypes
from normfold.model.graph import Node, Value
from normfold.model.tensors import Float64, Unreadable
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject

# A weight that is larger than this is not read for a hint: 256 MiB of float32.
_LARGEST = 1 << 26


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """y = W·x + b.

    Args:
        node: Conv, Gemm or MatMul.
        data: x.
        weight: `[O, I/groups, *kernel]`.
        bias: `[O]`.
        groups: of a Conv, else 1.
    """

    node: Node
    data: Value
    weight: Float64
    bias: Float64
    groups: int


def linear_before(subject: Subject, value: Value) -> Linear | None:
    """The operator that makes a value, if its weights are constant; what adds a constant bias behind it is seen through."""
    offset: Float64 | None = None
    node = value.producer
    while node is not None and not node.domain and node.op_type in ("Identity", "Cast", "Add") and offset is None:
        if node.op_type == "Add":
            slot = next((i for i in (0, 1) if subject.constants.get(node.input(i)) is not None), None)
            offset = None if slot is None else _float(subject, node.input(slot))
            if slot is None or offset is None or offset.size != max(offset.shape, default=1):
                return None
            offset = offset.reshape(-1)
            following = node.input(1 - slot)
        else:
            following = node.input(0)
        node = None if following is None else following.producer
    if node is None or node.domain or node.is_call or node.is_bound_by_caller:
        return None
    found = _read(subject, node)
    if found is None or offset is None:
        return found
    if offset.size not in (1, found.bias.size):
        return None
    return Linear(found.node, found.data, found.weight, found.bias + offset, found.groups)


def _read(subject: Subject, node: Node) -> Linear | None:
    data, weight = node.input(0), None
    if data is None:
        return None
    if node.op_type == "Conv":
        weight = _float(subject, node.input(1))
    elif node.op_type == "MatMul" or (node.op_type == "Gemm" and not attributes.get(node, "transA", 0)):
        weight = _float(subject, node.input(1))
        if weight is not None and weight.ndim != 2:
            return None
        if weight is not None and not (node.op_type == "Gemm" and attributes.get(node, "transB", 0)):
            weight = weight.T
        if weight is not None and node.op_type == "Gemm":
            weight = weight * float(attributes.get(node, "alpha", 1.0))
    if weight is None or weight.ndim < 2 or not len(weight):
        return None
    bias = np.zeros(len(weight))
    if node.input(2) is not None:
        stored = _float(subject, node.input(2))
        if stored is None or stored.size not in (1, bias.size):
            return None
        bias = bias + stored.reshape(-1) * (float(attributes.get(node, "beta", 1.0)) if node.op_type == "Gemm" else 1.0)
    groups = int(attributes.get(node, "group", 1)) if node.op_type == "Conv" else 1
    return Linear(node, data, weight, bias, groups)


def _float(subject: Subject, value: Value | None) -> Float64 | None:
    source = subject.constants.get(value)
    if source is None or not dtypes.is_float(source.data_type) or math.prod(source.dims) > _LARGEST:
        return None
    try:
        return source.array().astype(np.float64)
    except Unreadable:
        return None


def largest_weight(subject: Subject, site: StatSite) -> Float64 | None:
    """`[O]`: the largest |w| of each output channel of the operator in front; None where there is none to read."""
    linear = linear_before(subject, site.x)
    return None if linear is None else np.abs(linear.weight).reshape(len(linear.weight), -1).max(axis=1, initial=0.0)
