"""What a spelling costs: how often it goes over the whole tensor."""

from __future__ import annotations

from typing import Any

import pytest

from normfold.norm.meaning import Norm
from normfold.targets.lower import Options, lower
from normfold.targets.lowering import Lowering
from normfold.targets.names import Target
from normfold.targets.passes import passes, passes_of
from tests.targets import norms

MEAN, DEVIATION, SQUARE = ("ReduceMean", ["x"], ["m"]), ("Sub", ["x", "m"], ["d"]), ("Mul", ["d", "d"], ["p"])
VARIANCE, EPSILON, ROOT = ("ReduceMean", ["p"], ["v"]), ("Add", ["v", "e"], ["w"]), ("Sqrt", ["w"], ["s"])
MOMENTS = (MEAN, DEVIATION, SQUARE, VARIANCE, EPSILON, ROOT)

SPELLINGS = {
    "division": ((*MOMENTS, ("Div", ["d", "s"], ["n"]), ("Mul", ["n", "g"], ["t"]), ("Add", ["t", "b"], ["y"])), 7),
    "gamma over the root": (
        (*MOMENTS, ("Div", ["g", "s"], ["k"]), ("Mul", ["d", "k"], ["t"]), ("Add", ["t", "b"], ["y"])),
        6,
    ),
    "a view is free": ((("Reshape", ["x", "r"], ["u"]), ("Neg", ["u"], ["y"])), 1),
    "a Transpose is not": ((("Transpose", ["x"], ["u"]), ("Neg", ["u"], ["y"])), 2),
    "its shape is not read": ((("Shape", ["x"], ["z"]), ("Mul", ["z", "z"], ["q"])), 0),
    "something else": ((("Mul", ["a", "b"], ["y"]),), 0),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_passes_are_counted_along_what_is_as_large_as_x(name: str) -> None:
    steps, wanted = SPELLINGS[name]
    assert passes(steps, "x") == wanted


def elementary(norm: Norm) -> Lowering:
    choice = lower(norm, Target.PORTABLE, Options(17))
    return next(lowering for lowering in choice.lowerings if lowering.fallback)


def last_group_norm(**more: Any) -> Norm:
    """[N, H, W, C], groups of the last dimension."""
    parameter = norms.numbers(1, 1, 1, 8)
    given: dict[str, Any] = {"gamma": parameter, "beta": parameter, "groups": 4, "channel": 3}
    return norms.norm(("N", 4, 6, 8), (1, 2), **{**given, **more})


def test_gamma_is_divided_by_the_root_where_that_is_smaller_than_x() -> None:
    assert passes_of(elementary(last_group_norm())) == 6
    assert passes_of(elementary(norms.layer_norm())) == 7, "gamma over the root would have the size of x"


@pytest.mark.parametrize(
    "more",
    [{"gamma": norms.numbers(1, 1, 1, 8) * 1e30, "epsilon": 1e-20}, {"epsilon": 0.0}],
    ids=["may overflow", "without epsilon the root may be 0"],
)
def test_gamma_is_not_divided_by_a_root_that_may_be_too_small(more: dict[str, Any]) -> None:
    assert passes_of(elementary(last_group_norm(**more))) == 7
