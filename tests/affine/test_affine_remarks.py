"""What the report says about an affine beside where it went."""

import numpy as np
import pytest

from normfold.affine.algebra import per_channel
from normfold.affine.remarks import is_exact, remarks
from tests.support import batch_norm, build, check, random

F32 = np.float32
W = random(4, 3, 3, 3)


@pytest.mark.parametrize(
    ("factor", "exactness", "bound"),
    [(2.0, "exact", 0.0), (-0.25, "exact", 0.0), (3.0, "rounded", 2.0**-24), (0.0, "rounded", 2.0**-24)],
)
def test_a_power_of_two_is_exact(factor, exactness, bound):
    model = build("c = Conv(x, w) y = Mul(c, k)", init={"w": W, "k": F32(factor)})
    (decision,) = check(model).decisions
    assert (decision.exactness, decision.bound) == (exactness, bound)


@pytest.mark.parametrize(
    ("scale", "shift", "exact"),
    [([2, -0.5], [0, 0], True), ([2, 3], [0, 0], False), ([1, 1], [0, 1], False), ([2, 0], [0, 0], False)],
)
def test_what_rounds_nothing(scale, shift, exact):
    assert is_exact(per_channel(np.float64(scale), np.float64(shift), 4, 1)) is exact


def test_the_bound_is_that_of_the_type():
    model = build(
        "c = Conv(x, w) y = Mul(c, k)", "float16[1,3,8,8] x", init={"w": W.astype(np.float16), "k": np.float16(3)}
    )
    assert check(model).decisions[0].bound == 2.0**-11


def test_what_stays_has_no_exactness():
    (decision,) = check(build("c = Sigmoid(x) y = Mul(c, k)", init={"k": F32(2)})).decisions
    assert (decision.exactness, decision.bound, decision.notes) == (None, None, ())


def test_dead_channels_and_huge_gains_are_told():
    parameters = batch_norm(4)
    parameters["g"][1:3] = 0
    parameters["v"][3] = 0
    parameters["m"][3] = 0
    model = build("c = Conv(x, w) y = BatchNormalization<epsilon=1e-10>(c, g, b, m, v)", init={"w": W, **parameters})
    notes = check(model, run=False).decisions[0].notes
    assert notes[0] == "2 of 4 channels are constant, because their scale is 0"
    assert "channel 3 is multiplied by" in notes[1]


def test_nothing_remarkable():
    affine = per_channel(np.array([1.0, 3.0]), np.array([1.0, 0.0]), 4, 1)
    assert remarks(affine) == ()
    assert not is_exact(affine)
