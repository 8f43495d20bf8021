"""What a norm in front of which an affine stands does not notice.

InstanceNormalization, GroupNormalization, LayerNormalization subtract a mean: a shift that is the same for everything
that shares one mean vanishes. They, and RMSNormalization, divide by a root: a uniform scale `s` vanishes but for its
sign, if `epsilon' = epsilon / s²`. A scale that varies is only nearly invariant, because of epsilon: refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.affine.algebra import Affine, uniform
from normfold.affine.change import closed, data_only, in_front, into_weights
from normfold.affine.draft import INPUT, Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.model import attributes, dtypes
from normfold.model.graph import Node

_ATTRIBUTES = {
    "InstanceNormalization": ("epsilon", "consumed_inputs"),
    "GroupNormalization": ("epsilon", "num_groups", "stash_type"),
    "LayerNormalization": ("axis", "epsilon", "stash_type"),
    "RMSNormalization": ("axis", "epsilon", "stash_type"),
}
_DEFAULT_EPSILON = 1e-5


def accept_in_front(draft: Draft, node: Node, arriving: Mapping[int, Affine]) -> tuple[Absorption, ...]:
    """The slots that take an affine in front of a norm; none where it vanishes entirely.

    Raises:
        Refused: `not-per-channel`, it varies inside of what shares one mean or variance; `shift-blocked`; `dtype-range`.
    """
    affine = data_only(node, arriving)
    closed(node, _ATTRIBUTES[node.op_type])
    if any(value is not None for value in node.outputs[1:]):
        raise Refused("shared", f"mean or deviation of {node.label!r} are in use", node.label)
    if node.op_type != "InstanceNormalization" and draft.shapes.data_type(node.output) in (None, dtypes.DOUBLE):
        raise Refused("dtype-range", f"{node.label!r} may compute its statistics in float32, which rounds a shift away")
    _require_vanishing_shift(draft, node, affine)
    scale = affine.scale.reshape(-1)
    if scale.size != 1 or scale[0] == 0:
        raise Refused(
            "not-per-channel", f"{node.op_type} {node.label!r} takes only a uniform scale in front, because of epsilon"
        )
    if scale[0] == 1:
        return ()
    before = draft.pending(node, INPUT)
    _require_epsilon(draft, node, float(scale[0]) * (1.0 if before is None else float(before.scale.reshape(-1)[0])))
    if scale[0] < 0:
        draft.parameter(node, 1)  # the sign goes there
        if node.input(2) is not None:
            draft.parameter(node, 2)
    return in_front(node, affine.only_scale(), into_weights(node, uniform(1.0, 0.0, affine.rank)))


def _require_vanishing_shift(draft: Draft, node: Node, affine: Affine) -> None:
    if not affine.shifts:
        return
    if node.op_type == "RMSNormalization":
        raise Refused("shift-blocked", f"RMSNormalization {node.label!r} subtracts no mean", node.label)
    varying = {axis for axis, size in enumerate(affine.shift.shape) if size != 1}
    if node.op_type == "LayerNormalization":
        inside = {axis for axis in varying if axis >= int(attributes.get(node, "axis", -1)) % affine.rank}
    else:
        inside = {axis for axis in varying if axis > 1}
        if node.op_type == "GroupNormalization" and not _equal_in_groups(node, affine.shift):
            inside.add(1)
    if inside:
        raise Refused(
            "not-per-channel", f"the shift varies inside of what {node.label!r} takes one mean of", node.label
        )


def _equal_in_groups(node: Node, shift: np.ndarray) -> bool:
    if shift.shape[1] == 1:
        return True
    groups = int(attributes.get(node, "num_groups", 1))
    if groups < 1 or shift.shape[1] % groups:
        return False
    parts = shift.reshape(shift.shape[0], groups, -1)
    return bool((parts == parts[:, :, :1]).all())


def _require_epsilon(draft: Draft, node: Node, scale: float) -> None:
    """The new epsilon is a float32 attribute; data of float64 would notice its rounding."""
    wanted = _epsilon(node) / scale**2
    with np.errstate(over="ignore", under="ignore"):
        stored = float(np.float32(wanted))
    if draft.shapes.data_type(node.output) in (None, dtypes.DOUBLE) and stored != wanted:
        raise Refused("dtype-range", f"epsilon = {wanted:g} does not fit a float32 attribute of wider data", node.label)
    if not dtypes.smallest_normal(dtypes.FLOAT) <= stored <= 1.0 and _epsilon(node):
        raise Refused("dtype-range", f"epsilon would become {stored:g}", node.label)


def _epsilon(node: Node) -> float:
    return float(np.float32(attributes.get(node, "epsilon", _DEFAULT_EPSILON)))


def front_epsilon(draft: Draft, node: Node) -> dict[str, float]:
    """The new epsilon of a norm that collected a scale in front, as attributes; empty if there is none."""
    before = draft.pending(node, INPUT)
    return {} if before is None else {"epsilon": _epsilon(node) / float(before.scale.reshape(-1)[0]) ** 2}


def front_sign(draft: Draft, node: Node) -> float:
    """The sign of what a norm collected in front, for its scale: `n(-x) = -n(x)` before scale and bias."""
    before = draft.pending(node, INPUT)
    return -1.0 if before is not None and float(before.scale.reshape(-1)[0]) < 0 else 1.0
