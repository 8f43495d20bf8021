"""M04: mean or variance over the batch, in plain operators."""

from __future__ import annotations

from collections.abc import Iterator

from normfold.model import attributes
from normfold.model.graph import Node, Value
from normfold.model.shapes import reduce_axes
from normfold.statistics.file_rules.dependence import input_dependent
from normfold.statistics.findings import finding
from normfold.statistics.schema import Finding
from normfold.statistics.sites import execution_order
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

_REDUCTIONS = frozenset(("ReduceMean", "ReduceSum", "ReduceSumSquare"))
# What stands between a sum of squares and the division by its root.
_CARRIERS = frozenset(
    ("Sqrt", "Reciprocal", "Pow", "Add", "Mul", "Max", "Clip", "Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Expand")
)  # fmt: skip
_SQUARES = frozenset(("Mul", "Pow", "Abs", "Cast", "Identity"))


def batch_statistics(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """One finding for each normalisation: the variance that belongs to a mean that was found is not told again."""
    candidates = [node for node in execution_order(subject.model) if _reduces_batch(subject, node)]
    dynamic = input_dependent(subject) if candidates else set()
    found: set[int] = set()  # the Subs and Divs
    for node in candidates:
        data = node.inputs[0]
        assert data is not None
        if id(data) not in dynamic or _follows(data, found):
            continue
        target = _normalises(node, dynamic)
        if target is not None:
            found.add(id(target))
            verb = "is subtracted from" if target.op_type == "Sub" else "divides"
            yield finding(
                "M04", f"a {node.op_type} over the batch axis {verb} the tensor at {target.label!r}", site=node
            )


def _reduces_batch(subject: Subject, node: Node) -> bool:
    """Whether it reduces over axis 0 of something that has more axes, where that axis can hold several samples."""
    data = node.input(0)
    if node.op_type not in _REDUCTIONS or node.domain or data is None:
        return False
    dims = subject.shapes.dims(data)
    if dims is None:
        return 0 in (subject.constants.ints(node.input(1)) or attributes.ints(node, "axes") or ())
    if len(dims) < 2 or 0 not in (reduce_axes(subject.shapes, node, len(dims)) or ()):
        return False
    return not (dims[0] == 1 and _is_reshaped(data))


def _is_reshaped(value: Value) -> bool:
    """Whether a leading 1 was made by a Reshape: it is no batch then, but how norms over rows are written."""
    node = value.producer
    while node is not None and (node.op_type in _SQUARES or node.op_type == "Sub"):
        first = node.input(0)
        node = None if first is None else first.producer
    return node is not None and node.op_type in ("Reshape", "Unsqueeze", "Transpose")


def _normalises(node: Node, dynamic: set[int]) -> Node | None:
    """The first Sub or Div behind it that takes the statistic from, or divides, what depends on an input."""
    pending: list[Value] = [node.output]
    seen: set[int] = set()
    while pending:
        value = pending.pop(0)
        for use in value.uses:
            reader = use.node
            if id(reader) in seen or reader.domain:
                continue
            seen.add(id(reader))
            if reader.op_type in ("Sub", "Div") and use.slot == 1:
                if id(reader.inputs[0]) in dynamic:
                    return reader
                pending.append(reader.output)  # 1/σ
            elif reader.op_type in _CARRIERS or reader.op_type == "Div":
                pending.append(reader.output)
    return None


def _follows(value: Value, found: set[int]) -> bool:
    """Whether a value is the square of a difference that was found."""
    pending, seen = [value], set[int]()
    while pending:
        node = pending.pop().producer
        if node is None or id(node) in seen:
            continue
        if id(node) in found:
            return True
        seen.add(id(node))
        if node.op_type in _SQUARES:
            pending += [operand for operand in node.inputs if operand is not None]
    return False
