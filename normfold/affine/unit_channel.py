"""A shift in front of a padded Conv, carried by one more channel that is 1 everywhere.

Where a Conv makes the data that an affine then shifts, it may make that channel too: zero weights, bias 1. What lies in
between maps 1 to 1. The padded Conv gives the channel the weights `Σ_i W[o, i, k]·t[i]`, so that zero padding acts on the
shift exactly as on the data: `Conv → Relu → BatchNormalization → padded Conv` becomes `Conv → Relu → padded Conv`, for any
sign and any image size, at the price of one channel. Made only when asked for, because it adds work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from normfold.affine.absorbers import ABSORBERS
from normfold.affine.algebra import Affine, per_channel, uniform
from normfold.affine.change import in_front, into_weights
from normfold.affine.convolution import adds_map, input_channels, taps_in_front
from normfold.affine.crossings import CROSSINGS
from normfold.affine.crossings.activations import CLIP_BOUNDS, LOWER_BOUND
from normfold.affine.draft import BORDER, UNIT_IN, UNIT_OUT, Absorption, Draft, Slot
from normfold.affine.reasons import Refused
from normfold.affine.search import Found, require_private, require_standard
from normfold.model import attributes
from normfold.model.constants import Dequantised
from normfold.model.graph import Node, Value

# Kernels work on blocks of so many channels; one more must not open a new block, unless there are many blocks.
_BLOCK = 8
_MANY = 32
_DEPTH = 16


def carry_shift(draft: Draft, data: Value, made: Value, affine: Affine) -> Found:
    """The slots that take an affine with the help of a unit channel.

    Args:
        draft: the edits so far.
        data: what the affine reads.
        made: what it makes; `made = affine(data)`.
        affine: in broadcast form.

    Raises:
        Refused: there is no Conv on both sides, or something in between does not keep the channel.
    """
    ahead, consumer, arriving = _forward(draft, made, affine)
    behind, producer = _backward(draft, data, affine.rank)
    scale, shift = arriving.vectors(1, input_channels(draft, consumer))
    _require_cheap(consumer, scale.size)
    _require_free(draft, producer, consumer)
    identity = uniform(1.0, 0.0, affine.rank)
    weights = np.expand_dims(taps_in_front(draft, consumer, shift), 1)
    absorbed = (
        *in_front(consumer, per_channel(scale, np.zeros_like(scale), affine.rank, 1), into_weights(consumer, identity)),
        Absorption(Slot(consumer, UNIT_IN), Affine(np.zeros((1,) * weights.ndim), weights)),
        into_weights(producer, identity),
        Absorption(Slot(producer, UNIT_OUT), uniform(0.0, 1.0, affine.rank)),
    )
    return Found(absorbed, (*behind, *ahead))


def _require_free(draft: Draft, producer: Node, consumer: Node) -> None:
    """Neither has what does not go together with one more channel in between."""
    if draft.pending(consumer, BORDER) is not None:
        raise Refused("padded-shift", f"{consumer.label!r} reads from a Pad with another fill", consumer.label)
    collected = draft.pending(producer)
    if collected is not None and adds_map(collected):
        raise Refused("padded-shift", f"a map is added behind {producer.label!r}", producer.label)
    taken = (draft.pending(producer, UNIT_OUT), draft.pending(consumer, UNIT_IN))
    if any(item is not None for item in taken):
        raise Refused("padded-shift", f"{producer.label!r} makes such a channel already", producer.label)


def _require_cheap(consumer: Node, channels: int) -> None:
    if channels < _MANY and channels % _BLOCK == 0:
        raise Refused("cost", f"one more than {channels} channels would open a new block of {_BLOCK}", consumer.label)


# --- the ways to both sides --------------------------------------------------------------------------------------------


def _forward(draft: Draft, value: Value, affine: Affine) -> tuple[list[Node], Node, Affine]:
    """The nodes up to the padded Conv, that Conv, and the affine in front of it."""
    passed: list[Node] = []
    for _ in range(_DEPTH):
        use = draft.only_reader(value)
        if use is None:
            raise Refused("shared", f"{value.name!r} is not read by one node alone")
        node = use.node
        require_private(draft, draft.root(value), node)
        require_standard(node)
        if node.op_type == "Conv":
            _require_dense(draft, node, affine.rank)
            return passed, node, affine
        _require_unit(draft, node, affine.rank)
        crossing = CROSSINGS[node.op_type].forward
        assert crossing is not None
        moved = crossing(draft, node, {use.slot: affine})
        if moved.absorbed:
            raise Refused(
                "padded-shift", f"a constant of {node.label!r} would have to hold one more number", node.label
            )
        affine = moved.outputs[0]
        passed.append(node)
        value = node.output
    raise Refused("search-limit", f"no Conv within {_DEPTH} steps")


def _backward(draft: Draft, value: Value, rank: int) -> tuple[list[Node], Node]:
    """The nodes up to the Conv that makes the data, and that Conv."""
    passed: list[Node] = []
    for _ in range(_DEPTH):
        root = draft.root(value)
        node = root.producer
        if node is None or root.output_slot:
            raise Refused("no-absorber", f"{root.name!r} is not made by a Conv")
        use = draft.only_reader(root)
        if use is None:
            raise Refused("shared", f"{root.name!r} is not read by one node alone")
        require_private(draft, root, use.node)
        require_standard(node)
        if node.op_type == "Conv":
            _require_dense(draft, node, rank)
            return passed, node
        _require_unit(draft, node, rank)
        passed.insert(0, node)
        data = node.inputs[0]
        assert data is not None
        value = data
    raise Refused("search-limit", f"no Conv within {_DEPTH} steps")


def _require_dense(draft: Draft, node: Node, rank: int) -> None:
    """One group: in a depthwise Conv every channel would need a companion."""
    accept = ABSORBERS["Conv"].accept
    assert accept is not None
    if int(draft.attribute(node, "group", 1)) != 1:
        raise Refused("padded-shift", f"{node.label!r} works in groups, each of which would need a channel", node.label)
    accept(draft, node, uniform(1.0, 0.0, rank))
    if isinstance(draft.parameter(node, 1), Dequantised):
        raise Refused("quantised", f"the weight of {node.label!r} is quantised, and would become floats", node.label)


# --- what maps 1 to 1 --------------------------------------------------------------------------------------------------


def _require_unit(draft: Draft, node: Node, rank: int) -> None:
    keeps = _KEEP_ONE.get(node.op_type)
    if keeps is None:
        raise Refused("padded-shift", f"{node.op_type} {node.label!r} does not keep a channel of ones", node.label)
    keeps(draft, node, rank)


def _by_crossing(draft: Draft, node: Node, rank: int) -> None:
    """What lets any shift per channel pass maps a constant channel to itself."""
    crossing = CROSSINGS[node.op_type].forward
    assert crossing is not None
    crossing(draft, node, {0: per_channel(np.ones(2), np.array([0.0, 1.0]), rank, 1)})


def _relu(draft: Draft, node: Node, rank: int) -> None:
    if draft.pending(node, LOWER_BOUND) is not None or any(name != "alpha" for name in node.attributes):
        raise Refused("padded-shift", f"{node.op_type} {node.label!r} is not what it was", node.label)


def _clip(draft: Draft, node: Node, rank: int) -> None:
    for operand, name in CLIP_BOUNDS.items():
        if draft.pending(node, operand) is not None:
            raise Refused("padded-shift", f"the bounds of {node.label!r} have moved", node.label)
        default = -np.inf if operand == 1 else np.inf
        given = node.input(operand)
        bound = attributes.get(node, name, default) if given is None else float(draft.parameter(node, operand).array())
        if (bound > 1) if operand == 1 else (bound < 1):
            raise Refused("padded-shift", f"Clip {node.label!r} does not keep a channel of ones", node.label)


_KEEP_ONE: dict[str, Callable[[Draft, Node, int], None]] = {
    **dict.fromkeys(
        ("Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample"),
        _by_crossing,
    ),
    **dict.fromkeys(("Relu", "LeakyRelu", "Elu"), _relu),
    "Clip": _clip,
}


def widened_values(nodes: Sequence[Node]) -> list[Value]:
    """The tensors that have one more channel, whose declared shapes are no longer true."""
    return [value for node in nodes for value in node.outputs if value is not None]
