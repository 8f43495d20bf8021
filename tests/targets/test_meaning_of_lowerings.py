"""Every lowering of every target computes the norm: in float64, by the definition of each operator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from normfold.norm.meaning import Surroundings
from normfold.targets.lower import lower
from normfold.targets.lowering import SUM, Lowering, X, Y
from normfold.targets.names import Target
from tests.targets.cases import Case, cases
from tests.targets.evaluate import definition, evaluate

# float64 arithmetic on a few hundred numbers near 1: what is left is a different order of the same operations.
TOLERANCE = 1e-11


def _reads_x(lowering: Lowering) -> bool:
    return any(name == X and type(name) is str for node in lowering.nodes for name in node.inputs)


def check(case: Case, lowering: Lowering) -> None:
    wanted = definition(case.norm, case.x, case.given)
    if lowering.takes_silu:
        wanted = wanted / (1.0 + np.exp(-wanted))
    made = evaluate(lowering, case.x, case.given)
    assert made[Y].shape == case.x.shape
    bound = TOLERANCE * (1.0 + np.abs(wanted).max())
    assert np.abs(made[Y] - wanted).max() <= bound, lowering.operator
    assert _reads_x(lowering) != (lowering.takes_residual or lowering.takes_embedding)
    residual = case.around.residual
    assert (SUM in made) == (lowering.takes_residual and residual is not None and residual.is_read)
    if SUM in made:
        assert np.array_equal(made[SUM], case.x)


@pytest.mark.parametrize("target", list(Target), ids=lambda t: t.value)
@settings(max_examples=250)
@given(case=cases())
def test_a_lowering_computes_the_norm(target: Target, case: Case) -> None:
    choice = lower(case.norm, target, case.options, case.around)
    for lowering in choice.lowerings:
        check(case, lowering)
    assert choice.lowerings or choice.rejected
    assert all(r.message and r.operator for r in choice.rejected)


@settings(max_examples=100)
@given(case=cases())
def test_a_lowering_is_the_same_each_time(case: Case) -> None:
    for target in Target:
        first, second = (repr(lower(case.norm, target, case.options, case.around)) for _ in range(2))
        assert first == second


@settings(max_examples=100)
@given(case=cases())
def test_surroundings_only_add(case: Case) -> None:
    """What a norm becomes on its own is still offered where something stands around it."""
    for target in Target:
        alone = lower(case.norm, target, case.options, Surroundings())
        inside = lower(case.norm, target, case.options, case.around)
        assert {low.operator for low in alone.lowerings} <= {low.operator for low in inside.lowerings}
