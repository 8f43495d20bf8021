"""Affines that belong to a pattern which every runtime fuses into one operator: taking them out would undo the fusion.

Two patterns end or begin with constants: a decomposed norm, `(x - mean) / sqrt(var + epsilon) · gamma + beta`, and GELU,
`0.5 · x · (1 + erf(x / sqrt(2)))` with its tanh cousin.
"""

from __future__ import annotations

from collections.abc import Collection

from normfold.affine.draft import Draft
from normfold.affine.reasons import Refused
from normfold.model.graph import Node, Value

_STATISTICS = ("ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool")
_GATES = ("Erf", "Tanh")
_ROOTS = ("Sqrt", "Reciprocal", "Pow", "Add", "Max", "Clip", "Div", "Cast", "Mul", "Expand", "Reshape", "Unsqueeze")
_GATE_STEPS = ("Add", "Mul", "Cast")
_DEPTH = 6


def require_unfused(draft: Draft, value: Value) -> None:
    """The value is not the end of a decomposed norm or of GELU.

    Raises:
        Refused: `fused-pattern`.
    """
    node = draft.root(value).producer
    while node is not None and node.op_type == "Cast" and not node.domain and node.inputs[0] is not None:
        node = draft.root(node.inputs[0]).producer
    if node is None or node.domain or node.op_type not in ("Mul", "Div"):
        return
    operands = [operand for operand in node.inputs if operand is not None]
    if any(_derives(draft, operand, _ROOTS, _STATISTICS) and _is_root(draft, operand) for operand in operands):
        raise Refused("fused-pattern", f"{node.label!r} ends a norm that runtimes fuse with its scale", node.label)
    require_no_gate(draft, node)


def require_no_bias(draft: Draft, node: Node, value: Value) -> None:
    """An Add of zeros is not the bias of a MatMul: the fused kernels of attention and of GELU are found by their biases.

    Raises:
        Refused: `bias-in-place`.
    """
    producer = draft.root(value).producer
    if (
        node.op_type == "Add"
        and producer is not None
        and producer.op_type == "MatMul"
        and draft.constants.get(producer.input(1)) is not None
        and not _has_bias(draft, producer)
    ):
        raise Refused("bias-in-place", f"it is the bias of MatMul {producer.label!r}, if of zeros", producer.label)


def _has_bias(draft: Draft, matmul: Node) -> bool:
    """Whether a MatMul collected a shift, which makes it a Gemm, or puts another Add behind it."""
    pending = draft.pending(matmul)
    return pending is not None and pending.shifts


def require_no_gate(draft: Draft, node: Node) -> None:
    """No factor of a product is the gate of a GELU.

    Raises:
        Refused: `fused-pattern`.
    """
    for operand in node.inputs:
        if operand is not None and _derives(draft, operand, _GATE_STEPS, _GATES):
            raise Refused("fused-pattern", f"{node.label!r} is part of a GELU that runtimes fuse", node.label)


def _is_root(draft: Draft, value: Value) -> bool:
    """Whether an inverse root or a division by one lies on the way: what makes a mean a deviation."""
    return _derives(draft, value, _ROOTS, ("Sqrt", "Pow"))


def _derives(draft: Draft, value: Value, through: Collection[str], targets: Collection[str]) -> bool:
    """Whether a value is made by one of `targets`, at most a few operators of `through` away."""
    pending = [(value, 0)]
    seen: set[int] = set()
    while pending:
        current, depth = pending.pop()
        node = draft.root(current).producer
        if node is None or node.domain or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type in targets:
            return True
        if node.op_type in through and depth < _DEPTH:
            pending += [(operand, depth + 1) for operand in node.inputs if operand is not None]
    return False
