"""What a norm becomes: a few operators with their constants, under placeholder names. Pure data; nothing here knows a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from normfold.norm.meaning import Float64

# Placeholder names: what the norm reads, what it makes, and the sum of a residual that goes into the operator.
X, Y, SUM = "x", "y", "sum"

MICROSOFT = "com.microsoft"


class Given(str):
    """The name of a tensor of the graph, as opposed to a placeholder: a graph may well call a tensor `x` or `scale`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A new initializer.

    Args:
        name: a placeholder, which says what it is (`scale`, `bias`, `shape`, `ones`).
        values: float64, or int64 for shapes and axes.
        data_type: ONNX element type; floats are rounded once to it.
    """

    name: str
    values: Any
    data_type: int


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """A new node.

    Args:
        op_type, domain: which operator.
        inputs: placeholders, "" where an optional input is left out; names of `Norm` and `Surroundings` as `Given`.
        outputs: placeholders.
        attributes: plain values.
    """

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Lowering:
    """One way to spell a norm on a target.

    Args:
        operator: what people call it: `LayerNormalization`, `InstanceNormalization idiom`, `com.microsoft.GroupNorm`.
        nodes: in execution order; they read `x` (or what the residual adds) and make `y`.
        constants: what they read beside that.
        opset: the lowest version of the standard domain in which every node is valid as it stands.
        newest: the highest version in which the target has a kernel for every node; None if there is no limit.
        valid_until: the highest version in which every node is valid as it stands; None if no later one breaks it. A model
            that goes past it needs the lowering that is written for its new version.
        domains: other domains that must be imported, with the version.
        reason: one line: why this operator.
        marks: facts that this choice rests on and that no hardware has confirmed yet.
        takes_residual, takes_embedding, takes_silu: which parts of the surroundings went into it.
        channels_last: whether the nodes hold the Transposes of a layout that the layout pass may cancel.
        fallback: whether it is written in elementary operators, which pays only where they are fewer than the norm has, or
            where an operator of the norm has no kernel on the target.
    """

    operator: str
    nodes: tuple[Op, ...]
    constants: tuple[Constant, ...]
    opset: int
    reason: str
    newest: int | None = None
    domains: Mapping[str, int] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    takes_residual: bool = False
    takes_embedding: bool = False
    takes_silu: bool = False
    channels_last: bool = False
    fallback: bool = False
    valid_until: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """An operator that a norm cannot become on a target.

    Args:
        operator: which one.
        key: of the reason, as in the codes.
        message: one line that names the constraint: "C/G = 3 is odd".
    """

    operator: str
    key: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What a target offers for a norm: the best first, then what to take if the opset cannot be raised that far.

    An empty list of lowerings means that the norm stays as it is spelled; `rejected` says why.
    """

    lowerings: tuple[Lowering, ...]
    rejected: tuple[Rejected, ...] = ()


__all__ = ["MICROSOFT", "SUM", "Choice", "Constant", "Float64", "Given", "Lowering", "Op", "Rejected", "X", "Y"]
