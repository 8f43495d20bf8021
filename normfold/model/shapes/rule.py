"""What a rule of shape derivation is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normfold.model.graph import Node, Value
from normfold.model.shapes.dims import Dims

if TYPE_CHECKING:
    from normfold.model.shapes.derive import Shapes

EVERY_INPUT = 16  # of an operator with many, which soon have told all that there is to know

Derive = Callable[["Shapes", Node, int], Dims | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """How the dimensions of an operator's outputs are derived.

    Args:
        derive: node and number of the output -> dimensions, None if even the rank is unknown.
        inputs: how many of its inputs it looks at the dimensions of.
        sources: further values that it looks at, given the number of the output.
        shape_input: the input whose elements it takes for a shape.
    """

    derive: Derive
    inputs: int = 1
    shape_input: int | None = None
    sources: Callable[[Node, int], list[Value | None]] | None = None
