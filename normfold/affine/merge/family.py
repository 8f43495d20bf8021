"""The summands of one tree of sums that start from one tensor, and the merge that makes them one operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from normfold.affine.algebra import Affine
from normfold.affine.draft import Merge
from normfold.affine.merge.branch import Branch
from normfold.model.graph import Node, Value
from normfold.model.tensors import Float64, TensorSource


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Branches that are all linear in one tensor.

    Args:
        root: the sum that goes last.
        inner: other sums that go.
        branches: at least two, one of them with weights.
        keep: the operator that must stay, None for any.
        onto: what stands for the output of `root`, None for the output of the operator that stays.
        crossed: sums that stay between the operator and `root`.
    """

    root: Node
    inner: tuple[Node, ...]
    branches: tuple[Branch, ...]
    keep: Node | None = None
    onto: Value | None = None
    crossed: tuple[Node, ...] = ()

    def merge(
        self,
        kept: Node,
        parameters: Mapping[int, TensorSource],
        affine: Affine,
        attributes: Mapping[str, Any],
        growth: str,
    ) -> Merge:
        """The merge that leaves `kept`."""
        gone = dict.fromkeys(node for branch in self.branches for node in branch.nodes)
        dropped = (*self.inner, *(node for node in gone if node is not kept))
        return Merge(
            kept, self.root, dropped, parameters, affine, attributes, growth, onto=self.onto, crossed=self.crossed
        )


def bias_size(bias: Float64) -> int:
    """Numbers of a bias, none if it is zero."""
    return bias.size if np.any(bias) else 0
