"""Mean and variance of each channel along the graph, from the gamma and beta of the layers alone (§9).

Behind a BatchNormalization channel k is modelled as N(β_k, γ_k²). Activations, mean-preserving pooling, residual adds and
concatenation carry that on; what raises or multiplies the mean (max pooling, squeeze-excite) ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from normfold.model import attributes
from normfold.model.demand import Answers
from normfold.model.graph import Node, Value
from normfold.model.tensors import Float64
from normfold.statistics.file_rules import activations
from normfold.statistics.file_rules.gaussian import activated
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject

# What leaves the mean of each channel as it is. AveragePool does so where zeros of the padding are not counted.
_KEEP = frozenset(("Identity", "Cast", "Dropout", "AveragePool", "GlobalAveragePool"))
_GATES = frozenset(("Sigmoid", "HardSigmoid"))


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """Mean and variance of each channel, `[C]` each; taken as normal by the activation that follows."""

    mean: Float64
    var: Float64


class Flow:
    """Answers what is expected of a value; remembers every answer."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._sites: dict[int, StatSite] = {id(site.y): site for site in subject.sites if site.y is not None}
        self._answers: Answers[Normal | None] = Answers(self._needs, self._answer)

    def expected(self, value: Value) -> Normal | None:
        """Mean and variance of each channel; None where nothing can be said."""
        return self._answers.get(value)

    def _needs(self, value: Value) -> Sequence[Value]:
        node = value.producer
        if id(value) in self._sites or node is None or node.domain or node.is_call or value.output_slot:
            return ()
        if node.op_type == "Mul":
            gated = _gated(node)
            return () if gated is None else (gated,)
        if node.op_type in ("Add", "Sum", "Concat"):
            return [operand for operand in node.inputs if operand is not None]
        first = node.input(0)
        return () if first is None else (first,)

    def _answer(self, value: Value) -> Normal | None:
        site = self._sites.get(id(value))
        if site is not None:
            return _behind(site)
        node = value.producer
        needed = self._needs(value)
        known = [self._answers.known(operand) for operand in needed]
        if node is None or not known or any(item is None for item in known):
            return None
        return self._carried(node, [item for item in known if item is not None])

    def _carried(self, node: Node, known: list[Normal]) -> Normal | None:
        first = known[0]
        if node.op_type in ("Add", "Sum"):
            if len(known) < 2 or any(item.mean.shape != first.mean.shape for item in known):
                return None
            return Normal(np.sum([i.mean for i in known], axis=0), np.sum([i.var for i in known], axis=0))
        if node.op_type == "Concat":
            if attributes.get(node, "axis", 1) != 1:
                return None
            return Normal(np.concatenate([i.mean for i in known]), np.concatenate([i.var for i in known]))
        if node.op_type in _KEEP:
            padded = any(attributes.ints(node, "pads") or ()) and attributes.get(node, "count_include_pad", 0)
            return None if padded else first
        if node.op_type in ("Flatten", "Reshape", "Squeeze"):
            return first if self._drops_only_ones(node, first.mean.size) else None
        std = np.sqrt(first.var)
        found = (
            _gate(node, first.mean, std)
            if node.op_type == "Mul"
            else activations.moments(self._subject, node, first.mean, std)
        )
        return None if found is None else Normal(*found)

    def _drops_only_ones(self, node: Node, channels: int) -> bool:
        """`[N, C, 1, 1]` -> `[N, C]`."""
        shapes = self._subject.shapes
        before, after = (None if v is None else shapes.dims(v) for v in (node.input(0), node.output))
        return (
            before is not None
            and after is not None
            and len(before) > 2
            and tuple(before[1:]) == (channels, *(1,) * (len(before) - 2))
            and len(after) == 2
            and after[1] == channels
        )


def _behind(site: StatSite) -> Normal | None:
    if site.uses_batch or site.gamma is None or site.beta is None or site.gamma.shape != site.beta.shape:
        return None
    if not (np.isfinite(site.gamma).all() and np.isfinite(site.beta).all()):
        return None
    return Normal(site.beta, site.gamma**2)


def _gated(node: Node) -> Value | None:
    """x in x·σ(x), how SiLU and HardSwish are exported; None for other products."""
    if len(node.inputs) != 2:
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        made = None if other is None else other.producer
        if (
            made is not None
            and made.op_type in _GATES
            and not made.domain
            and value is not None
            and made.input(0) is value
        ):
            return value
    return None


def _gate(node: Node, mean: Float64, std: Float64) -> tuple[Float64, Float64] | None:
    gates = [
        v.producer for v in node.inputs if v is not None and v.producer is not None and v.producer.op_type in _GATES
    ]
    gate = activations.function(gates[0]) if gates else None
    return None if gate is None else activated(lambda x: x * gate(x), mean, std)
