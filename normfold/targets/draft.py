"""Writing a lowering: nodes and constants under placeholder names that are never those of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from normfold.targets.lowering import SUM, Constant, Op, X, Y


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """A node together with what decides whether a kernel takes it.

    Args:
        op: the node.
        data_type: ONNX element type of its first input.
        rank: rank of its first input.
    """

    op: Op
    data_type: int
    rank: int


class Draft:
    """Nodes in execution order, their constants, and what they took from the surroundings of the norm.

    Args:
        opset: the version of the standard domain that it is written for.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.uses: list[Use] = []
        self.constants: list[Constant] = []
        self.takes_residual = self.takes_embedding = self.takes_silu = self.channels_last = False
        self._taken = {X, Y, SUM}
        self._purposes: dict[str, list[Constant]] = {}

    def op(
        self,
        op_type: str,
        *inputs: str,
        data_type: int,
        rank: int,
        domain: str = "",
        others: tuple[str, ...] = (),
        **attributes: Any,
    ) -> str:
        """Append a node and return its result; `others` are the outputs behind it, "" where one is left out."""
        made = self._fresh(op_type.lower())
        outputs = (made, *others)
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        node = Op(op_type, inputs, outputs, dict(sorted(attributes.items())), domain)
        self.uses.append(Use(node, data_type, rank))
        return made

    def floats(self, name: str, values: Any, data_type: int) -> str:
        """A float constant, rounded once to `data_type` when it is written; one for equal values of one purpose."""
        return self._constant(name, np.asarray(values, np.float64), data_type)

    def integers(self, name: str, values: Any) -> str:
        """An int64 constant: a shape, axes."""
        return self._constant(name, np.asarray(values, np.int64), int(TensorProto.INT64))

    def _constant(self, name: str, values: Any, data_type: int) -> str:
        for known in self._purposes.get(name, ()):
            if known.data_type == data_type and np.array_equal(known.values, values):
                return known.name
        made = Constant(self._fresh(name), values, data_type)
        self._purposes.setdefault(name, []).append(made)
        self.constants.append(made)
        return made.name

    def _fresh(self, base: str) -> str:
        name = next(name for name in _numbered(base) if name not in self._taken)
        self._taken.add(name)
        return name

    def finished(self, result: str) -> tuple[Op, ...]:
        """The nodes, with `result` under the name of what the norm makes."""

        def named(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(Y if name == result else name for name in names)

        return tuple(
            replace(op, inputs=named(op.inputs), outputs=named(op.outputs))
            if result in op.inputs or result in op.outputs
            else op
            for op in (use.op for use in self.uses)
        )


def _numbered(base: str) -> Iterator[str]:
    yield base
    number = 2
    while True:
        yield f"{base}_{number}"
        number += 1
