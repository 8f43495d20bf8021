"""What one planted case consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A network, data for it, and what is wrong.

    Args:
        name: of the case.
        model: as it was exported.
        data: `[N, ...]` for the only input, `x`, as a user would hand it in: in the order and the range of his pipeline.
        labels: `[N]`, class of each sample.
        batch_size: to run the data with.
        code: of the finding that must come first; "" where nothing is wrong.
        layers: positions, in execution order, of the BatchNormalizations at fault; () where it is none or all of them.
        transform: what the user forgot to do to the data, in the words of the preprocessing hypotheses; "" if nothing.
        state: parameters and buffers on the training side, by their names there: `net.3.running_mean`.
        epsilon: of the layers on the training side.
    """

    name: str
    model: ModelProto
    data: Array
    labels: Array
    batch_size: int
    state: Mapping[str, Array]
    epsilon: float
    code: str = ""
    layers: tuple[int, ...] = ()
    transform: str = ""

    @property
    def healthy(self) -> bool:
        """Whether nothing was planted."""
        return not self.code

    def labels_at_fault(self) -> tuple[str, ...]:
        """Names of the nodes at `layers`."""
        norms = [node.name for node in self.model.graph.node if node.op_type == "BatchNormalization"]
        return tuple(norms[position] for position in self.layers)

    def accuracy(self, scores: Array) -> float:
        """Share of samples whose largest score is that of their class."""
        return float(np.mean(scores.argmax(axis=1) == self.labels))
