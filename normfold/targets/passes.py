"""How often a spelling goes over the whole tensor: what elementary operators cost, for their arithmetic is free beside it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from normfold.targets.lowering import Lowering, X

# They hand on the same memory, or look at the shape alone.
_FREE = frozenset(("Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Dropout"))
_ASKS = frozenset(("Shape", "Size"))
_GLOBAL = frozenset(("GlobalAveragePool", "GlobalLpPool"))

Step = tuple[str, Sequence[Hashable], Sequence[Hashable]]


def passes(steps: Iterable[Step], whole: Hashable) -> int:
    """The operators that read something of the size of a tensor, a reduction of it included.

    What is computed of reductions and constants alone counts as small, although a constant may broadcast it to the full
    size again: of two spellings, the one that is counted too low stays.

    Args:
        steps: operator, inputs and outputs, in execution order.
        whole: the tensor.
    """
    big, count = {whole}, 0
    for op_type, inputs, outputs in steps:
        if op_type in _ASKS or not any(item in big for item in inputs):
            continue
        count += op_type not in _FREE
        if not op_type.startswith("Reduce") and op_type not in _GLOBAL:
            big.update(outputs)
    return count


def passes_of(lowering: Lowering) -> int:
    """The same for what a norm becomes."""
    return passes(((node.op_type, node.inputs, node.outputs) for node in lowering.nodes), X)
