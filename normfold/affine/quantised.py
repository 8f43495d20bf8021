"""Quantised weights: what multiplies `(q - zero)·scale` goes into the scale, and the integers stay.

An absorber does not know how its weight is stored: it says that a parameter becomes `parameter·factor + offset`. Where
the parameter comes out of a DequantizeLinear, this is said here in terms of that node:

factor > 0   scale' = factor·scale
factor < 0   scale' = |factor|·scale, and q - zero changes its sign: q' = -q where zero is 0, else the complement of both
factor = 0   q' = zero, and the scale stays
offset ≠ 0   that is on no grid: a small parameter is written as floats, unless this may cost an integer kernel
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from normfold.affine.algebra import Affine, compress
from normfold.affine.change import Absorber, Change, NewParameter, require_affordable
from normfold.affine.draft import OUTPUT, Absorption, Draft
from normfold.affine.grid import Room, regridded
from normfold.affine.reasons import Refused
from normfold.affine.recognise import CHAIN_OPS
from normfold.model import attributes
from normfold.model.constants import Dequantised
from normfold.model.graph import Node, Value
from normfold.model.tensors import Unreadable

# With dequantised data a Gemm has an integer kernel even if its result is float, as long as no operand is float. The
# other operators have one only where a QuantizeLinear follows, and here an affine does.
_GEMM, _GEMM_BIAS = "Gemm", 2
_GEMM_ROWS, _GEMM_COLUMNS = 0, 1

# The axis of the weight along which kernels know scales: that of the output channels. Others are valid and not run.
_CHANNELS = {"Conv": 0, "DeformConv": 0, "ConvTranspose": 1}
# Runtimes move a DequantizeLinear along these, and normfold removes the affines.
_LETS_THROUGH = (
    *CHAIN_OPS, "BatchNormalization", "Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool",
)  # fmt: skip
_STEPS = 16


def through_scales(row: Absorber) -> Absorber:
    """The row, refusing what the scales of a quantised parameter cannot express."""
    accept, accept_forward = row.accept, row.accept_forward

    def behind(draft: Draft, node: Node, affine: Affine) -> Absorption:
        assert accept is not None
        return _tried(draft, node, row, lambda: (accept(draft, node, affine),))[0]

    def in_front(draft: Draft, node: Node, arriving: Mapping[int, Affine]) -> tuple[Absorption, ...]:
        assert accept_forward is not None
        return _tried(draft, node, row, lambda: accept_forward(draft, node, arriving))

    return replace(row, accept=accept and behind, accept_forward=accept_forward and in_front)


def _tried(
    draft: Draft, node: Node, row: Absorber, accept: Callable[[], tuple[Absorption, ...]]
) -> tuple[Absorption, ...]:
    """What the row accepts, if the changes that this leads to can be made."""
    if not any(isinstance(draft.constants.get(value), Dequantised) for value in node.inputs):
        return accept()
    try:
        absorbed = accept()
        with draft.trial(absorbed):
            affine = draft.pending(node, OUTPUT)
            if affine is not None:
                change = row.build(draft, node, affine)
                _require_kernel(draft, change)
                split(draft, change)
    except Unreadable as error:
        raise Refused("quantised", f"a parameter of {node.label!r} has {error}", node.label) from None
    return absorbed


def split(draft: Draft, change: Change) -> list[Change]:
    """A change, with what it says about quantised parameters said about their DequantizeLinear.

    Raises:
        Refused: `quantised`, `shared`, `graph-output`, `captured`, `dtype-range`, `cost`.
    """
    kept: dict[int, NewParameter] = {}
    parts: list[Change] = []
    for slot, parameter in change.inputs.items():
        part = _redirected(draft, change.node, slot, parameter)
        if part is None:
            kept[slot] = parameter
        else:
            parts.append(part)
    return [replace(change, inputs=kept), *parts] if parts else [change]


def _redirected(draft: Draft, node: Node, slot: int, parameter: NewParameter) -> Change | None:
    """What becomes of the DequantizeLinear; None where the parameter is written as it is."""
    source, value = parameter.base, node.input(slot)
    if not isinstance(source, Dequantised) or value is None:
        return None
    try:
        _require_own(draft, node, slot, source)
        if parameter.dims != source.dims or parameter.factor is None or _shifts(parameter):
            raise Refused("quantised", f"a shift of {value.name!r} is not on the grid of its integers", node.label)
        factor = parameter.factor.reshape((1,) * (len(source.dims) - parameter.factor.ndim) + parameter.factor.shape)
        room = _room(draft, node, slot, source)
        part = regridded(source, compress(factor), room)
        for operand in part.inputs:
            require_affordable(draft, source.node, operand, part.inputs[operand].base)
        return replace(part, owner=node)
    except Refused:
        if parameter.offset is not None and source.is_vector and not _reads_dequantised(draft, node):
            return None
        raise


def _shifts(parameter: NewParameter) -> bool:
    return parameter.offset is not None and bool(parameter.offset.any())


def _require_own(draft: Draft, node: Node, slot: int, source: Dequantised) -> None:
    """Nobody but the node sees the dequantised values.

    Raises:
        Refused: `shared`, `graph-output`, `captured`, `quantised`.
    """
    value = node.inputs[slot]
    assert value is not None
    name = f"the dequantised {value.name!r}"
    if value.producer is not source.node:
        raise Refused("quantised", f"{name} does not come right out of {source.node.label!r}", source.node.label)
    if value.is_output:
        raise Refused("graph-output", f"{name} is an output of the graph", source.node.label)
    for use in draft.uses(value):
        if use.node is not node or use.slot != slot:
            raise Refused("shared", f"{name} is also read by {use.node.op_type} {use.node.label!r}", use.node.label)
    if value.scope is not node.scope:
        raise Refused("captured", f"{name} comes from outside of the subgraph", source.node.label)


def _require_kernel(draft: Draft, change: Change) -> None:
    """No integer kernel goes for a bias that was not there.

    Raises:
        Refused: `quantised`.
    """
    node = change.node
    adds = node.op_type == _GEMM and _GEMM_BIAS in change.inputs and node.input(_GEMM_BIAS) is None
    if adds and _reads_dequantised(draft, node):
        raise Refused("quantised", f"a float bias would take the integer kernel from Gemm {node.label!r}", node.label)


def _room(draft: Draft, node: Node, slot: int, source: Dequantised) -> Room:
    """What the kernels of the operator leave open."""
    axis = None
    if node.op_type == "MatMul":
        axis = len(source.dims) - (1 if slot == 1 else 2)
    elif slot == 1:
        rows = _GEMM_ROWS if attributes.get(node, "transB", 0) else _GEMM_COLUMNS
        axis = rows if node.op_type == _GEMM else _CHANNELS.get(node.op_type)
    integers = _reads_dequantised(draft, node)
    return Room(node.label, axis, symmetric=integers, single=integers and node.op_type == "MatMul" and slot == 0)


def _reads_dequantised(draft: Draft, node: Node) -> bool:
    """Whether the data of the node are integers in truth: then an integer kernel may take its place."""
    return any(_is_dequantised(draft, value) for value in node.inputs)


def _is_dequantised(draft: Draft, value: Value | None) -> bool:
    for _ in range(_STEPS):
        node = None if value is None or draft.constants.get(value) is not None else draft.root(value).producer
        if node is None or node.op_type not in _LETS_THROUGH:
            return node is not None and node.op_type == "DequantizeLinear"
        value = next((v for v in node.inputs if v is not None and draft.constants.get(v) is None), None)
    return False
