"""What a tensor is as a function of a base x: the forms of the abstract domain, and their arithmetic.

With `m = mean(x)` and `q = mean(x²)` over the axes of the frame, a tensor is a *polynomial*
`c_xx·x² + c_xm·x·m + c_mm·m² + c_x·x + c_m·m + c_1 + c_q·q`, a *power* `k·M^h` of a moment, or a *normalised* value
`L·M^(-1/2) + d` with a linear `L`. A moment is kept with `c_q = 1`, so that two roots are equal exactly when their moments
are (`norm-fusion`, section 2.2). Whatever is none of these has no form: coverage is lost, never correctness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
# One number, or an array with one axis per atom of the frame, of extent 1 where it does not vary.
Coefficient = float | Float64

X, M, ONE, Q, XX, XM, MM = "x", "m", "1", "q", "xx", "xm", "mm"
_PRODUCTS = {
    (X, X): XX, (X, M): XM, (M, X): XM, (M, M): MM,
    (X, ONE): X, (ONE, X): X, (M, ONE): M, (ONE, M): M, (ONE, ONE): ONE,
}  # fmt: skip
_OF_X = (X, XX, XM)


def is_zero(value: Coefficient) -> bool:
    """Whether a coefficient vanishes everywhere."""
    return value == 0.0 if isinstance(value, float) else not value.any()


def lowest(value: Coefficient) -> float:
    """The smallest element."""
    return value if isinstance(value, float) else float(value.min())


def is_finite(value: Coefficient) -> bool:
    """Whether every element is a finite number."""
    return bool(np.isfinite(value).all()) if not isinstance(value, float) else value - value == 0.0


def spread(value: Coefficient) -> float:
    """The largest absolute element."""
    return abs(value) if isinstance(value, float) else float(np.abs(value).max())


@dataclass(frozen=True, slots=True, eq=False)
class Poly:
    """A polynomial in x, m and q; terms that vanish are left out."""

    terms: Mapping[str, Coefficient]

    def get(self, term: str) -> Coefficient:
        """The coefficient of a term, 0 where there is none."""
        return self.terms.get(term, 0.0)

    @property
    def is_linear(self) -> bool:
        """Whether it has neither products nor q."""
        return all(term in (X, M, ONE) for term in self.terms)

    @property
    def is_constant(self) -> bool:
        """Whether neither x nor a statistic occurs."""
        return all(term == ONE for term in self.terms)

    @property
    def has_x(self) -> bool:
        """Whether it is more than a statistic."""
        return any(term in self.terms for term in _OF_X)


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """`q + mm·m² + m·m + one`: a mean square (`mm = 0`) or a variance (`mm = -1`), plus epsilon."""

    mm: Coefficient
    m: Coefficient
    one: Coefficient

    @property
    def lower_bound(self) -> float | None:
        """What it is never below, None if nothing is known: `q ≥ m²`, whatever x is."""
        if not is_zero(self.m) or lowest(self.mm) < -1.0 - 1e-6:
            return None
        return lowest(self.one)


@dataclass(frozen=True, slots=True, eq=False)
class Power:
    """`factor · moment^exponent`, exponent ½, -½ or -1."""

    factor: Coefficient
    moment: Moment
    exponent: float


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """`(x·X + m·M + one) · moment^(-½) + delta`."""

    x: Coefficient
    m: Coefficient
    one: Coefficient
    moment: Moment
    delta: Coefficient


Form = Poly | Power | Normal
THE_BASE = Poly({X: 1.0})
_EXPONENTS = (0.5, -0.5, -1.0)


def constant(value: Coefficient) -> Poly:
    """A form that is the same for every x."""
    return Poly({} if is_zero(value) else {ONE: value})


def added(a: Form, b: Form, sign: float, close: float) -> Form | None:
    """`a + sign·b`; `close` is the relative distance below which two coefficients are one."""
    if isinstance(a, Poly) and isinstance(b, Poly):
        return _added_polys(a, b, sign)
    if isinstance(a, Poly) or isinstance(b, Poly):
        return _added_constant(a, b, sign)
    left, right = _as_normal(a), _as_normal(b)
    if left is None or right is None or not same_moment(left.moment, right.moment, close):
        return None
    return Normal(
        left.x + sign * right.x,
        left.m + sign * right.m,
        left.one + sign * right.one,
        left.moment,
        left.delta + sign * right.delta,
    )


def _added_polys(a: Poly, b: Poly, sign: float) -> Poly:
    terms = dict(a.terms)
    for term, value in b.terms.items():
        total = terms.get(term, 0.0) + sign * value
        if is_zero(total):
            terms.pop(term, None)
        else:
            terms[term] = total
    return Poly(terms)


def _added_constant(a: Form, b: Form, sign: float) -> Form | None:
    if isinstance(a, Poly):
        normal, poly, mine, theirs = _as_normal(b), a, sign, 1.0
    else:
        assert isinstance(b, Poly)
        normal, poly, mine, theirs = _as_normal(a), b, 1.0, sign
    if not poly.is_constant:
        return None
    if normal is None:
        kept = b if isinstance(a, Poly) else a
        return kept if not poly.terms and mine == 1.0 else None
    shift = theirs * poly.get(ONE)
    return Normal(mine * normal.x, mine * normal.m, mine * normal.one, normal.moment, mine * normal.delta + shift)


def _as_normal(form: Form) -> Normal | None:
    if isinstance(form, Normal):
        return form
    if isinstance(form, Power) and form.exponent == -0.5:
        return Normal(0.0, 0.0, form.factor, form.moment, 0.0)
    return None


def multiplied(a: Form, b: Form, close: float) -> Form | None:
    """`a · b`."""
    if isinstance(a, Poly) and a.is_constant:
        return scaled(b, a.get(ONE))
    if isinstance(b, Poly) and b.is_constant:
        return scaled(a, b.get(ONE))
    if isinstance(a, Poly) and isinstance(b, Poly):
        product = _multiplied_polys(a, b)
        return product if product is not None else _multiplied_powers(as_power(a), as_power(b), close)
    if isinstance(b, Poly):
        a, b = b, a
    if isinstance(a, Poly) and isinstance(b, Power):
        if b.exponent == -0.5 and a.is_linear:
            k = b.factor
            return Normal(a.get(X) * k, a.get(M) * k, a.get(ONE) * k, b.moment, 0.0)
        return _multiplied_powers(as_power(a), b, close)
    if isinstance(a, Power) and isinstance(b, Power):
        return _multiplied_powers(a, b, close)
    return None


def scaled(form: Form, factor: Coefficient) -> Form:
    """`form · factor`."""
    if is_zero(factor):
        return Poly({})
    if isinstance(form, Poly):
        return Poly({term: value * factor for term, value in form.terms.items()})
    if isinstance(form, Power):
        return Power(form.factor * factor, form.moment, form.exponent)
    return Normal(form.x * factor, form.m * factor, form.one * factor, form.moment, form.delta * factor)


def _multiplied_polys(a: Poly, b: Poly) -> Poly | None:
    terms: dict[str, Coefficient] = {}
    for mine, c in a.terms.items():
        for theirs, d in b.terms.items():
            term = _PRODUCTS.get((mine, theirs))
            if term is None:
                return None
            terms[term] = terms.get(term, 0.0) + c * d
    return Poly({term: value for term, value in terms.items() if not is_zero(value)})


def _multiplied_powers(a: Power | None, b: Power | None, close: float) -> Form | None:
    if a is None or b is None or not same_moment(a.moment, b.moment, close):
        return None
    factor, exponent = a.factor * b.factor, a.exponent + b.exponent
    if exponent == 0.0:
        bound = a.moment.lower_bound
        return constant(factor) if bound is not None and bound > 0.0 else None
    if exponent == 1.0:
        return _moment_poly(a.moment, factor)
    return Power(factor, a.moment, exponent) if exponent in _EXPONENTS else None


def _moment_poly(moment: Moment, factor: Coefficient) -> Poly:
    terms = {Q: factor, MM: moment.mm * factor, M: moment.m * factor, ONE: moment.one * factor}
    return Poly({term: value for term, value in terms.items() if not is_zero(value)})


def as_power(form: Form) -> Power | None:
    """A power, or a polynomial that is a multiple of a moment, as a power with exponent 1."""
    if isinstance(form, Power):
        return form
    if not isinstance(form, Poly) or form.has_x:
        return None
    k = form.get(Q)
    if lowest(k) <= 0.0:
        return None
    return Power(k, Moment(form.get(MM) / k, form.get(M) / k, form.get(ONE) / k), 1.0)


def raised(form: Form, exponent: float) -> Form | None:
    """`form ^ exponent`."""
    if exponent == 1.0:
        return form
    if isinstance(form, Poly) and exponent == 2.0 and form.is_linear:
        return _multiplied_polys(form, form)
    if isinstance(form, Poly) and form.is_constant:
        return _raised_constant(form.get(ONE), exponent)
    power = as_power(form)
    if power is None:
        return None
    new = power.exponent * exponent
    factor = _powered(power.factor, exponent)
    if not is_finite(factor):  # too large, the root of a negative number, or one over zero
        return None
    if new == 1.0:
        return _moment_poly(power.moment, factor)
    return Power(factor, power.moment, new) if new in _EXPONENTS else None


def _raised_constant(value: Coefficient, exponent: float) -> Poly | None:
    result = _powered(value, exponent)
    return constant(result) if is_finite(result) else None


def _powered(value: Coefficient, exponent: float) -> Coefficient:
    """`value ^ exponent`; not finite where it has no such power, which Python's own numbers would raise."""
    with np.errstate(all="ignore"):
        return float(np.float64(value) ** exponent) if isinstance(value, float) else value**exponent


def lower_bound(form: Form) -> float | None:
    """What a form is never below, None if nothing is known."""
    power = as_power(form)
    if power is None or lowest(power.factor) <= 0.0:
        return None
    bound = power.moment.lower_bound
    if bound is None:
        return None
    if power.exponent < 0:
        return 0.0
    if bound < 0:
        return None
    return float(lowest(power.factor) * bound**power.exponent)


def same_moment(a: Moment, b: Moment, close: float) -> bool:
    """Whether two moments are one."""
    return near(a.mm, b.mm, close) and near(a.m, b.m, close) and near(a.one, b.one, close)


def near(a: Coefficient, b: Coefficient, close: float) -> bool:
    """Whether two coefficients are one up to the rounding of the constants that they come from."""
    if a is b:
        return True
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= close * max(abs(a), abs(b))
    return bool(np.all(np.abs(a - b) <= close * np.maximum(np.abs(a), np.abs(b))))
