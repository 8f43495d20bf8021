"""Which nodes are affine: inference BatchNormalization, and Mul/Add/Sub/Div/Neg/Sum with constants.

BatchNormalization   s = gamma / sqrt(var + epsilon), t = beta - mean·s
Mul(x, c)            (c, 0)        Add(x, c)   (1, c)
Sub(x, c)            (1, -c)       Sub(c, x)   (-1, c)
Div(x, c), c ≠ 0     (1/c, 0)      Neg(x)      (-1, 0)        Sum(x, c…)   (1, Σc)
ImageScaler          (scale, bias per channel)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from normfold.affine.algebra import Affine, per_channel, uniform
from normfold.affine.draft import INPUT, OUTPUT, Draft
from normfold.affine.kernels import require_float
from normfold.affine.reasons import Refused
from normfold.errors import InputError
from normfold.model import attributes, dtypes
from normfold.model.constants import float64
from normfold.model.graph import Node, Value
from normfold.model.tensors import Float64, TensorSource, Unreadable

BATCH_NORM = "BatchNormalization"
Pair = tuple[Float64, Float64]
IMAGE_SCALER = "ImageScaler"  # experimental in opset 1, still written by Core ML converters
CHAIN_OPS = frozenset(("Mul", "Add", "Sub", "Div", "Neg", "Sum", IMAGE_SCALER))
_NUMPY_BROADCAST = 7  # before this opset, operands stretched only by the attributes `broadcast` and `axis`
# A constant with more elements than this is no per-channel parameter of anything.
_LARGEST_CONSTANT = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class AffineNode:
    """A node read as an affine of one of its inputs."""

    node: Node
    data: Value
    affine: Affine


def is_candidate(node: Node) -> bool:
    """Whether a node may be affine at all, by its operator."""
    return not node.domain and (node.op_type == BATCH_NORM or node.op_type in CHAIN_OPS)


def has_constant_operand(draft: Draft, node: Node) -> bool:
    """Whether an elementwise node is a site: exactly one data operand, of a float type, the others constant."""
    if node.op_type == BATCH_NORM:
        return True
    if any(draft.constants.is_sparse(value) for value in node.inputs):
        return _would_be_affine(draft, node)
    dynamic = [value for value in node.inputs if value is not None and draft.constants.get(value) is None]
    if len(dynamic) != 1:
        return False
    if node.op_type == "Div" and node.inputs[0] is not dynamic[0]:
        return False  # c / x is not affine
    constants = [draft.constants.get(value) for value in node.inputs if value is not dynamic[0]]
    if any(c is None or not dtypes.is_float(c.data_type) or math.prod(c.dims) > _LARGEST_CONSTANT for c in constants):
        return False
    kind = constants[0].data_type if constants and constants[0] is not None else draft.shapes.data_type(dynamic[0])
    return kind is not None and dtypes.is_float(kind)


def _would_be_affine(draft: Draft, node: Node) -> bool:
    """Whether an elementwise node has one data operand of a float type, beside constants of which one is sparse."""
    known = (draft.constants.get, draft.constants.is_sparse)
    dynamic = [value for value in node.inputs if not any(is_known(value) for is_known in known)]
    if len(dynamic) != 1 or dynamic[0] is None or (node.op_type == "Div" and node.inputs[0] is not dynamic[0]):
        return False
    kind = draft.shapes.data_type(dynamic[0])
    return kind is not None and dtypes.is_float(kind)


def read(draft: Draft, node: Node) -> AffineNode:
    """The meaning of a site, with what its slots have collected so far.

    What was collected counts as it will be stored. A second run reads it like that, so whatever is decided here on more
    digits would be decided differently there.

    Raises:
        Refused: it is no affine, or cannot be shown to be one.
    """
    try:
        return _batch_norm(draft, node) if node.op_type == BATCH_NORM else _elementwise(draft, node)
    except Unreadable as error:
        raise Refused("ill-formed", f"a parameter of {node.label!r} has {error}", node.label) from None
    except InputError as error:
        raise Refused("external-data", error.message, node.label) from None


# --- BatchNormalization ----------------------------------------------------------------------------------------------


def _batch_norm(draft: Draft, node: Node) -> AffineNode:
    _require_inference(node)
    data = node.input(0)
    if data is None or len(node.inputs) != 5:
        raise Refused(
            "ill-formed", f"BatchNormalization {node.label!r} has {len(node.inputs)} inputs, wanted 5", node.label
        )
    # Mean and variance first: that they are computed says more than that scale and bias are.
    mean, var, gamma, beta = (_statistic(draft, node, slot) for slot in (3, 4, 1, 2))
    rank = _rank(draft, node, data)
    channels = draft.shapes.dims(data)[1] if rank > 1 else 1  # type: ignore[index]
    if isinstance(channels, int) and channels != gamma.size:
        raise Refused("ill-formed", f"{gamma.size} parameters for {channels} channels", node.label)
    axis = 1 if rank > 1 else 0
    if draft.pending(node, OUTPUT) is not None:
        new = collected(draft, node, axis, (gamma, beta, mean, var))
        gamma, beta, mean = (
            dtypes.stored(old * factor + offset, draft.parameter(node, slot).data_type)
            for slot, (old, (factor, offset)) in enumerate(zip((gamma, beta, mean), new, strict=True), 1)
        )
    return AffineNode(node, data, per_channel(*batch_norm_affine(node, gamma, beta, mean, var), rank, axis))


def collected(
    draft: Draft, node: Node, axis: int, parameters: tuple[Float64, Float64, Float64, Float64]
) -> tuple[Pair, Pair, Pair]:
    """What a BatchNormalization collected: factor and offset for each of gamma, beta and mean, all `[C]`.

    With `(s1, t1)` in front and `(s2, t2)` behind, `gamma' = s1·s2·gamma`. What is in front moves the mean to
    `(mean - t1)/s1`, or, as the variance stays, `s2·gamma/σ·(t1 + mean·(s1 - 1))` into beta. The first is taken where `s1`
    is large and the second where it is small or 0: neither makes a number that is larger than those of the model.
    """
    gamma, beta, mean, var = parameters
    before, behind = draft.pending(node, INPUT), draft.pending(node, OUTPUT)
    assert behind is not None
    scale, shift = behind.vectors(axis, gamma.size)
    one, zero = np.ones(gamma.size), np.zeros(gamma.size)
    if before is None:
        return (scale, zero), (scale, shift), (one, zero)
    s1, t1 = before.vectors(axis, gamma.size)
    own, _ = batch_norm_affine(node, gamma, beta, mean, var)
    large = np.abs(s1) > 1
    divisor = np.where(large, s1, 1.0)
    moved = np.where(large, 0.0, t1 + mean * (s1 - 1.0))
    return (
        (scale * s1, zero),
        (scale, shift + scale * own * moved),
        (1.0 / divisor, np.where(large, -t1 / divisor, 0.0)),
    )


def batch_norm_affine(
    node: Node, gamma: Float64, beta: Float64, mean: Float64, var: Float64
) -> tuple[Float64, Float64]:
    """`(scale, shift)` of shape `[C]` from the four parameters of shape `[C]`, in float64.

    `epsilon` is the stored float32 value, widened.

    Raises:
        Refused: `non-finite`, `nonpositive-variance`.
    """
    epsilon = float(np.float32(attributes.get(node, "epsilon", 1e-5)))
    if not (np.isfinite(epsilon) and all(np.isfinite(part).all() for part in (gamma, beta, mean, var))):
        raise Refused("non-finite", f"BatchNormalization {node.label!r} has a parameter that is not finite", node.label)
    if (var + epsilon <= 0).any():
        channel = int(np.argmax(var + epsilon <= 0))
        raise Refused(
            "nonpositive-variance",
            f"channel {channel}: variance {var[channel]:g} + epsilon {epsilon:g} ≤ 0",
            node.label,
        )
    with np.errstate(over="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(var + epsilon)
        shift = beta - mean * scale
    if not np.isfinite(shift).all():
        raise Refused(
            "non-finite", f"BatchNormalization {node.label!r} multiplies by more than float64 holds", node.label
        )
    return scale, shift


def _require_inference(node: Node) -> None:
    """The rules per opset; extra outputs are looked at as they are, never dropped first."""
    version = node.scope.version
    known = ("epsilon", "momentum", "spatial", "is_test", "training_mode")
    strange = attributes.unexpected(node, known)
    if strange:
        raise Refused("unknown-attribute", f"attribute {strange!r}", node.label)
    if version < 7 and not attributes.get(node, "is_test", 0):
        raise Refused(
            "training-mode", f"is_test is not set: before opset 7 that means training (opset {version})", node.label
        )
    if attributes.get(node, "training_mode", 0):
        raise Refused("training-mode", "training_mode = 1: it normalises with the statistics of the batch", node.label)
    if node.named_outputs() > 1:
        raise Refused("training-mode", f"it has {node.named_outputs()} outputs, which selects training", node.label)
    if not attributes.get(node, "spatial", 1):
        raise Refused("spatial", "spatial = 0: one parameter per activation", node.label)


def _statistic(draft: Draft, node: Node, slot: int) -> Float64:
    value = node.input(slot)
    computed = value is not None and draft.constants.get(value) is None and _is_computed(value)
    if value is not None and slot in (3, 4) and computed and not draft.constants.is_sparse(value):
        raise Refused("computed-stats", f"{value.name!r} is computed while the model runs", node.label)
    source = draft.parameter(node, slot)
    if len(source.dims) != 1:
        raise Refused("spatial", f"a parameter has shape {list(source.dims)}, wanted one value per channel", node.label)
    return draft.constants.vector(source)


def _rank(draft: Draft, node: Node, data: Value) -> int:
    """The rank of the data; where it is unknown because an integer kernel makes it, that says more.

    Raises:
        Refused: `shape-unknown`, `quantised`.
    """
    rank = draft.shapes.rank(data)
    if rank is not None:
        return rank
    producer = draft.root(data).producer
    if producer is not None and producer.op_type == "Cast" and producer.inputs[0] is not None:
        producer = draft.root(producer.inputs[0]).producer  # the sums are int32
    if producer is not None:
        require_float(producer)
    raise Refused("shape-unknown", f"the rank of {data.name!r} is not known", node.label)


def _is_computed(value: Value) -> bool:
    return value.producer is not None and value.producer.op_type != "DequantizeLinear"


# --- elementwise -----------------------------------------------------------------------------------------------------


def _elementwise(draft: Draft, node: Node) -> AffineNode:
    known = ("broadcast", "axis") if node.scope.version < _NUMPY_BROADCAST else ()
    strange = attributes.unexpected(node, ("scale", "bias") if node.op_type == IMAGE_SCALER else known)
    if strange:
        raise Refused("unknown-attribute", f"attribute {strange!r}", node.label)
    for operand, value in enumerate(node.inputs):
        if draft.constants.is_sparse(value):
            draft.parameter(node, operand)
    slot = next(i for i, value in enumerate(node.inputs) if draft.constants.get(value) is None)
    data = node.inputs[slot]
    assert data is not None
    rank = _rank(draft, node, data)
    affine = uniform(1.0, 0.0, rank)
    for other, value in enumerate(node.inputs):
        if other != slot and value is not None:
            constant = operand_values(draft, node, other, rank)
            _require_no_growth(draft, node, data, constant)
            affine = affine.then(_meaning(node, constant, constant_first=other < slot))
    if node.op_type == "Neg":
        affine = uniform(-1.0, 0.0, rank)
    elif node.op_type == IMAGE_SCALER:
        affine = _image_scaler(draft, node, data, rank)
    return AffineNode(node, data, affine.compressed())


def _image_scaler(draft: Draft, node: Node, data: Value, rank: int) -> Affine:
    """`scale·x + bias` with one number for all and one for each channel of `[N, C, H, W]`, both attributes."""
    bias = np.asarray(attributes.get(node, "bias", ()), np.float64)
    dims = draft.shapes.dims(data)
    channels = dims[1] if dims is not None and rank > 1 else None
    if rank != 4 or (isinstance(channels, int) and bias.size != channels) or not bias.size:
        raise Refused("ill-formed", f"ImageScaler {node.label!r} has {bias.size} biases on {dims}", node.label)
    scale = float(np.float32(attributes.get(node, "scale", 1.0)))
    if not (np.isfinite(scale) and np.isfinite(bias).all()):
        raise Refused("non-finite", f"a parameter of {node.label!r} is not finite", node.label)
    return per_channel(np.full(bias.shape, scale), bias, rank, 1)


def _meaning(node: Node, constant: Float64, *, constant_first: bool) -> Affine:
    one, zero = np.ones((1,) * constant.ndim), np.zeros((1,) * constant.ndim)
    if node.op_type in ("Add", "Sum"):
        return Affine(one, constant)
    if node.op_type == "Mul":
        return Affine(constant, zero)
    if node.op_type == "Sub":
        return Affine(-one, constant) if constant_first else Affine(one, -constant)
    with np.errstate(divide="ignore", over="ignore"):
        factor = 1.0 / constant
    if not np.isfinite(factor).all():
        raise Refused("non-finite", "division by a constant 0, or by almost 0", node.label)
    return Affine(factor, zero)


def operand_values(draft: Draft, node: Node, slot: int, rank: int) -> Float64:
    """A constant operand in broadcast form for a result of `rank`, with what its slot has collected so far.

    Raises:
        Refused: `broadcast`, it has more dimensions than the tensor; `non-finite`.
    """
    source = draft.parameter(node, slot)
    values = aligned(node, source, rank)
    pending = draft.pending(node, slot)
    if pending is not None:
        values = dtypes.stored(pending.scale * values + pending.shift, source.data_type)
    if not np.isfinite(values).all():
        raise Refused("non-finite", f"a constant of {node.label!r} is not finite", node.label)
    return values


def aligned(node: Node, source: TensorSource, rank: int) -> Float64:
    """The values of an operand with its dimensions where broadcasting puts them.

    From opset 7 dimensions align on the right. Before, `broadcast = 1` aligns them at `axis`, or on the right without one.
    """
    values = float64(source)
    if node.scope.version < _NUMPY_BROADCAST and node.attributes.get("axis") is not None:
        axis = int(attributes.get(node, "axis", 0)) % max(rank, 1)
        values = values.reshape(values.shape + (1,) * max(rank - axis - values.ndim, 0))
    if values.ndim > rank:
        raise Refused("broadcast", f"a constant of rank {values.ndim} on a tensor of rank {rank}", node.label)
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def _require_no_growth(draft: Draft, node: Node, data: Value, constant: Float64) -> None:
    dims = draft.shapes.dims(data)
    assert dims is not None
    for axis, size in enumerate(constant.shape):
        if size != 1 and dims[axis] != size:
            if isinstance(dims[axis], int):
                raise Refused("broadcast", f"a constant of size {size} on an axis of size {dims[axis]}", node.label)
            raise Refused("shape-unknown", f"the size of axis {axis} of {data.name!r} is not known", node.label)
