"""Activations as functions of numbers, with the attributes of their nodes; None where one cannot be known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.tensors import Float64
from normfold.statistics.file_rules.gaussian import Activation, activated, clipped, leaky, rectified
from normfold.statistics.subject import Subject

_ERF = np.vectorize(math.erf, otypes=[np.float64])
# name -> (attribute defaults, function of x and those)
_TABLE: dict[str, tuple[dict[str, float], Callable[..., Float64]]] = {
    "Elu": ({"alpha": 1.0}, lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))),
    "Celu": ({"alpha": 1.0}, lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))),
    "Selu": (
        {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
        lambda x, alpha, gamma: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    ),
    "Sigmoid": ({}, lambda x: 1.0 / (1.0 + np.exp(-x))),
    "Tanh": ({}, np.tanh),
    "Softplus": ({}, lambda x: np.logaddexp(0.0, x)),
    "Softsign": ({}, lambda x: x / (1.0 + np.abs(x))),
    "HardSigmoid": ({"alpha": 0.2, "beta": 0.5}, lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1)),
    "HardSwish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Swish": ({"alpha": 1.0}, lambda x, alpha: x / (1.0 + np.exp(-alpha * x))),
    "Mish": ({}, lambda x: x * np.tanh(np.logaddexp(0.0, x))),
    "Gelu": ({}, lambda x: 0.5 * x * (1.0 + _ERF(x / math.sqrt(2.0)))),
}


def function(node: Node) -> Activation | None:
    """The activation of a node; None for what is none, or has an attribute that is not known here."""
    entry = _TABLE.get(node.op_type)
    if entry is None or node.domain or node.is_call or node.is_bound_by_caller:
        return None
    defaults, f = entry
    if attributes.unexpected(node, tuple(defaults) + (("approximate",) if node.op_type == "Gelu" else ())):
        return None
    values = {name: float(attributes.get(node, name, default)) for name, default in defaults.items()}
    return lambda x: f(x, **values)


def moments(subject: Subject, node: Node, mean: Float64, std: Float64) -> tuple[Float64, Float64] | None:
    """Mean and variance behind an activation of a normal variable, `[C]` each; None if the node is no activation."""
    if node.domain or node.is_call:
        return None
    if node.op_type == "Relu":
        return rectified(mean, std)
    if node.op_type == "Clip":
        return _clip(subject, node, mean, std)
    if node.op_type == "PRelu":
        slope = subject.constants.array(node.input(1))
        if slope is None or slope.size not in (1, mean.size):
            return None
        return leaky(slope.astype(np.float64).reshape(-1), mean, std)
    if node.op_type == "LeakyRelu":
        return leaky(np.float64(attributes.get(node, "alpha", 0.01)) * np.ones(1), mean, std)
    f = function(node)
    return None if f is None else activated(f, mean, std)


def _clip(subject: Subject, node: Node, mean: Float64, std: Float64) -> tuple[Float64, Float64] | None:
    limits = []
    for slot, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        if node.input(slot) is None:
            limits.append(float(attributes.get(node, name, default)))
            continue
        array = subject.constants.array(node.input(slot))
        if array is None or array.size != 1:
            return None
        limits.append(float(array.reshape(-1)[0]))
    low, high = limits
    return clipped(mean, std, low, high) if low < high else None
