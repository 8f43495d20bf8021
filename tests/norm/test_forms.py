"""The algebra of forms where it must give up: what is claimed beyond that would be another function."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.model.dtypes import FLOAT
from normfold.norm import forms
from normfold.norm.forms import MM, ONE, Moment, Normal, Poly, Power, Q, X
from normfold.norm.meaning import Kind, Norm

VARIANCE = Moment(-1.0, 0.0, 1e-5)
MEAN_SQUARE = Moment(0.0, 0.0, 0.0)
ROOT, INVERSE, RECIPROCAL = (Power(2.0, VARIANCE, e) for e in (0.5, -0.5, -1.0))
NOTHING = Poly({})
PER_CHANNEL = np.array([1.0, 0.0, 2.0])


def test_a_constant_beside_a_power():
    """Only zero may be added to what is no inverse root, and nothing but itself is left."""
    assert forms.added(ROOT, NOTHING, 1.0, 0.0) is ROOT
    assert forms.added(NOTHING, ROOT, 1.0, 0.0) is ROOT
    assert forms.added(NOTHING, ROOT, -1.0, 0.0) is None
    assert forms.added(ROOT, Poly({ONE: 1.0}), 1.0, 0.0) is None
    assert forms.added(INVERSE, Poly({X: 1.0}), 1.0, 0.0) is None


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (ROOT, INVERSE, Poly),
        (Power(1.0, MEAN_SQUARE, 0.5), Power(1.0, MEAN_SQUARE, -0.5), None),  # 0/0 where x is 0
        (Power(1.0, Moment(0.0, 1.0, 1.0), 0.5), Power(1.0, Moment(0.0, 1.0, 1.0), -0.5), None),  # may be negative
        (ROOT, ROOT, Poly),
        (INVERSE, INVERSE, Power),
        (RECIPROCAL, INVERSE, None),
        (ROOT, Power(1.0, MEAN_SQUARE, -0.5), None),
    ],
)
def test_products_of_powers(a, b, wanted):
    made = forms.multiplied(a, b, 2.0**-20)
    assert made is None if wanted is None else isinstance(made, wanted)


@pytest.mark.parametrize(
    ("form", "exponent", "wanted"),
    [
        (Poly({Q: 1.0}), 0.5, Power),
        (Poly({Q: -1.0}), 0.5, None),  # the root of a negative number
        (Poly({MM: 1.0}), 0.5, None),  # the absolute mean
        (Poly({Q: 1.0, X: 1.0}), 0.5, None),
        (Poly({Q: 1.0}), 3.0, None),
        (Poly({Q: 1.0}), 1 / 3, None),
        (Poly({Q: 1.0}), -1.0, Power),
        (Power(-2.0, VARIANCE, 0.5), -1.0, Power),
        (Power(-2.0, VARIANCE, -1.0), 0.5, None),
        (Power(PER_CHANNEL, VARIANCE, 0.5), -1.0, None),  # by zero, in one channel
        (Power(0.0, VARIANCE, 0.5), -1.0, None),
        (Power(1e200, VARIANCE, 0.5), 2.0, None),
        (Power(PER_CHANNEL + 1e200, VARIANCE, 0.5), 2.0, None),
        (Poly({ONE: -1.0}), 0.5, None),
        (Poly({ONE: 0.0}), -1.0, None),
        (Poly({ONE: 4.0}), 0.5, Poly),
        (Normal(1.0, -1.0, 0.0, VARIANCE, 0.0), 2.0, None),
    ],
)
def test_powers(form, exponent, wanted):
    with np.errstate(all="ignore"):
        made = forms.raised(form, exponent)
    assert made is None if wanted is None else isinstance(made, wanted)


def test_only_a_positive_multiple_of_a_moment_is_a_power():
    """One channel without a mean square would divide by zero."""
    made = forms.as_power(Poly({Q: 2.0, ONE: 4.0}))
    assert made is not None
    assert (made.factor, made.moment.one, made.exponent) == (2.0, 2.0, 1.0)
    with np.errstate(all="ignore"):
        for terms in ({Q: PER_CHANNEL}, {Q: -1.0}, {MM: 1.0}, {Q: 1.0, X: 1.0}):
            assert forms.as_power(Poly(terms)) is None


@pytest.mark.parametrize(
    ("form", "bound"),
    [
        (Poly({Q: 1.0, MM: -1.0, ONE: 0.25}), 0.25),
        (Poly({Q: 2.0}), 0.0),
        (Power(2.0, Moment(-1.0, 0.0, 4.0), 0.5), 4.0),
        (RECIPROCAL, 0.0),
        (Power(-2.0, VARIANCE, 0.5), None),
        (Power(PER_CHANNEL, VARIANCE, 0.5), None),
        (Poly({Q: 1.0, MM: -1.5}), None),  # less than the square of the mean takes away
        (Poly({Q: 1.0, MM: -1.0, "m": 1.0}), None),
        (Poly({Q: 1.0, ONE: -0.5}), None),
        (Poly({X: 1.0}), None),
        (Poly({MM: 1.0}), None),
    ],
)
def test_lower_bounds(form, bound):
    assert forms.lower_bound(form) == bound


@pytest.mark.parametrize("part", ["mm", "m", "one"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_moments_that_differ_in_one_coefficient(part, per_channel):
    values = {"mm": -1.0, "m": 0.5, "one": 1e-5}
    other = {**values, part: values[part] * (1 + 1e-3 * (PER_CHANNEL if per_channel else 1.0))}
    assert forms.same_moment(Moment(**values), Moment(**values), 1e-6)
    assert not forms.same_moment(Moment(**values), Moment(**other), 1e-6)
    assert forms.same_moment(Moment(**values), Moment(**other), 1e-2)


# --- what the field calls a norm ------------------------------------------------------------------------------------


def norm(dims, axes, **more):
    given = {"epsilon": 1e-5, "gamma": None, "beta": None, "centred": True, **more}
    return Norm(dims=dims, axes=axes, input_type=FLOAT, output_type=FLOAT, parameter_type=FLOAT, **given)


CHANNELS, ROWS = np.ones((1, 4, 1, 1)) * np.arange(4).reshape(1, 4, 1, 1), np.arange(6.0).reshape(1, 1, 6, 1)


@pytest.mark.parametrize(
    ("made", "kind", "suffix", "spatial"),
    [
        (norm((2, 4, 6, 6), (2, 3), groups=2, channel=1), Kind.GROUP, False, True),
        (norm((2, 4, 6, 6), (2, 3)), Kind.INSTANCE, True, True),
        (norm((2, 4, 6, 6), (2, 3), gamma=CHANNELS), Kind.INSTANCE, True, True),
        (norm((2, 4, 6, 6), (2, 3), beta=ROWS), Kind.LAYER, True, True),
        (norm((2, 4, 6, 6), (2, 3), scale="s"), Kind.LAYER, True, True),
        (norm((2, 4, 6, 6), (1, 2)), Kind.INSTANCE, False, False),
        (norm((2, 4, 6), (1,)), Kind.LAYER, False, False),
        (norm((2, 4, 6), (2,)), Kind.LAYER, True, True),
        (norm((2, 4, 6), (2,), gamma=CHANNELS[..., 0]), Kind.INSTANCE, True, True),
        (norm((2, 4), (1,)), Kind.LAYER, True, False),
        (norm((2, 4), ()), Kind.LAYER, True, False),
        (norm((2, 4, 6, 6), (0, 2)), Kind.OTHER, False, False),
        (norm((2, 4), (1,), centred=False), Kind.RMS, True, False),
    ],
)
def test_kinds(made, kind, suffix, spatial):
    assert (made.kind, made.is_suffix, made.is_spatial) == (kind, suffix, spatial)
