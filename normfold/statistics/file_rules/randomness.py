"""M05: dropout that is switched on, and operators that draw numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from normfold.model import attributes
from normfold.model.graph import Node, Value
from normfold.statistics.findings import finding
from normfold.statistics.schema import Finding, Severity
from normfold.statistics.sites import execution_order
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds

_GENERATORS = frozenset(
    ("RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Multinomial", "Bernoulli")
)
_COMPARISONS = frozenset(("Greater", "Less", "GreaterOrEqual", "LessOrEqual"))
_MASKS = frozenset(("Mul", "Where"))
_FIRST_WITH_INPUTS, _FIRST_WITHOUT_MODE = 12, 7


def random_operators(subject: Subject, thresholds: Thresholds) -> Iterator[Finding]:
    """Dropout that drops, and generators: an error where one makes a mask, else a warning."""
    for node in execution_order(subject.model):
        if node.domain or node.is_call or not _is_used(node):
            continue
        if node.op_type == "Dropout":
            how = _active(subject, node)
            if how:
                yield finding("M05", f"Dropout is active: {how}", site=node)
        elif node.op_type in _GENERATORS:
            yield _generator(node)


def _is_used(node: Node) -> bool:
    made = node.outputs[0] if node.outputs else None
    return made is not None and (bool(made.uses) or made.is_output)


def _active(subject: Subject, node: Node) -> str:
    """Why a Dropout drops; "" if it does not, or if the caller decides."""
    version = node.scope.version
    if version >= _FIRST_WITH_INPUTS:
        mode, ratio = (_scalar(subject, node.input(slot)) for slot in (2, 1))
        if not mode:
            return ""
        share = 0.5 if node.input(1) is None else ratio
        return "" if share == 0 else f"training_mode = True, ratio {'unknown' if share is None else f'{share:g}'}"
    if version >= _FIRST_WITHOUT_MODE or attributes.get(node, "is_test", 0):
        return ""
    share = float(attributes.get(node, "ratio", 0.5))
    return f"is_test is not set, which means training before opset 7, ratio {share:g}" if share else ""


def _scalar(subject: Subject, value: Value | None) -> float | None:
    """A constant, or the stored default of one that a caller may override."""
    if value is None:
        return None
    source = value.tensor if value.exposed else subject.constants.get(value)
    if source is None:
        return None
    array = np.asarray(source.array())
    return float(array.reshape(-1)[0]) if array.size == 1 else None


def _generator(node: Node) -> Finding:
    if node.op_type == "Bernoulli" or (node.op_type.startswith("RandomUniform") and _makes_mask(node)):
        return finding("M05", f"{node.op_type} draws a mask: dropout that was left on", site=node)
    message = f"{node.op_type} draws numbers while the model runs: right for a model that samples, a mistake elsewhere"
    return finding("M05", message, site=node, severity=Severity.WARNING)


def _makes_mask(node: Node) -> bool:
    """Whether what it draws is compared and then multiplied with, or selects."""
    pending, compared = [(node.output, False)], set[tuple[int, bool]]()
    while pending:
        value, passed = pending.pop()
        for use in value.uses:
            reader = use.node
            key = (id(reader), passed)
            if key in compared:
                continue
            compared.add(key)
            if passed and reader.op_type in _MASKS:
                return True
            if reader.op_type in _COMPARISONS:
                pending.append((reader.output, True))
            elif reader.op_type in ("Cast", "Not", "Identity", "Add", "Floor"):
                # floor(p + u) is a comparison in another spelling
                pending.append((reader.output, passed or reader.op_type == "Floor"))
    return False
