"""Absorbers that recur: LSTM, GRU, RNN take an affine on their input features into W and the input half of the bias.

`W'[d] = W[d]·diag(s)` and `Wb'[d] = Wb[d] + W[d]·t` for every direction d, where Wb is the first half of `B[d]`. The
recurrence, the states, peepholes and activations see the same numbers as before.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import (
    Absorber,
    Change,
    NewParameter,
    closed,
    data_only,
    in_front,
    into_weights,
    parameter_name,
    require_affordable,
    require_range,
    scaled,
    zeros,
)
from normfold.affine.draft import INPUT, Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.model.graph import Node
from normfold.model.tensors import TensorSource

_ATTRIBUTES = (
    "activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget", "layout",
    "linear_before_reset", "output_sequence",
)  # fmt: skip
_BIAS = 3


def _weight(draft: Draft, node: Node) -> TensorSource:
    """W of shape `[directions, gates·hidden, features]`."""
    closed(node, _ATTRIBUTES)
    weight = draft.parameter(node, 1)
    if len(weight.dims) != 3:
        raise Refused("ill-formed", f"the weight has shape {list(weight.dims)}", node.label)
    if node.input(_BIAS) is not None and draft.parameter(node, _BIAS).dims != (weight.dims[0], 2 * weight.dims[1]):
        raise Refused("ill-formed", f"the bias of {node.label!r} does not fit its weight", node.label)
    return weight


def _accept_forward(draft: Draft, node: Node, arriving: Mapping[int, Affine]) -> tuple[Absorption, ...]:
    affine, weight = data_only(node, arriving), _weight(draft, node)
    if affine.rank != 3:
        raise Refused("ill-formed", f"rank {affine.rank} in front of {node.op_type} {node.label!r}", node.label)
    affine.vectors(2, weight.dims[2])
    require_range(affine, weight.data_type, node)
    require_affordable(draft, node, 1, weight)
    return in_front(node, affine, into_weights(node, uniform(1.0, 0.0, 4)))


def _build(draft: Draft, node: Node, affine: Affine) -> Change:
    """`affine`, behind, is always the identity: the gates are not linear."""
    weight, front = _weight(draft, node), draft.pending(node, INPUT)
    assert front is not None
    scale, shift = front.vectors(2, weight.dims[2])
    inputs: dict[int, NewParameter] = {}
    if front.scales:
        inputs[1] = scaled(weight, scale.reshape(1, 1, -1), parameter_name(node, 1, "weight"))
    if front.shifts:
        directions, gates, _ = weight.dims
        added = weight.array().astype(np.float64) @ shift
        offset = np.concatenate([added, np.zeros((directions, gates))], axis=1)
        bias = draft.parameter(node, _BIAS) if node.input(_BIAS) is not None else zeros(offset.shape, weight.data_type)
        name = parameter_name(node, _BIAS, "bias")
        inputs[_BIAS] = NewParameter(bias, bias.data_type, offset.shape, name, offset=offset)
    return Change(node, inputs)


RECURRENT: dict[str, Absorber] = dict.fromkeys(("LSTM", "GRU", "RNN"), Absorber(None, _build, _accept_forward))
