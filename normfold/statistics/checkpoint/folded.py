"""Weights that a normalisation was folded into, against what the checkpoint says they should be (X01).

A folded weight is W' = s·W per output channel, and s = γ/√(v + ε). That W' belongs to W shows without knowing s: every channel
of one is a multiple of the same channel of the other. Then s is known, and so is what it was made of:

    v + ε = (γ/s)²        b' = β + (b − μ)·s
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.model.constants import float64
from normfold.model.graph import Node
from normfold.statistics.checkpoint.norms import Norm
from normfold.statistics.checkpoint.reading import Array
from normfold.statistics.exact_sums import Float64
from normfold.statistics.sites import execution_order
from normfold.statistics.subject import Subject

_HOSTS = ("Conv", "Gemm")
EPSILONS = (1e-5, 1e-3, 0.0, 1e-4, 1e-6, 1e-12, 1.001e-5, 2e-5)
_COLLINEAR, _EXPLAINED = 1e-4, 2e-3  # relative errors: of a channel as a multiple of another, of s


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """A folded weight and where it comes from.

    Args:
        node: that holds it.
        weight: name in the checkpoint.
        norm: that was folded, None where none of the checkpoint explains the scale.
        epsilon: that explains the scale, None where none does.
        bias_fits: whether the bias follows from the same statistics; None where it has none.
        expected: the normalisation that stands behind the weight in the checkpoint, None where none does.
    """

    node: Node
    weight: str
    norm: Norm | None
    epsilon: float | None
    bias_fits: bool | None
    expected: Norm | None


def explain(subject: Subject, arrays: Mapping[str, Array], found: Sequence[Norm]) -> Iterator[Explained]:
    """Every Conv and Gemm whose weight is a scaled one of the checkpoint; unscaled ones are not folded and left out."""
    weights = {name: array for name, array in arrays.items() if array.ndim >= 2 and name.endswith("weight")}
    for node in execution_order(subject.model):
        if node.op_type not in _HOSTS or node.domain:
            continue
        value = node.input(1)
        source = None if value is None else subject.constants.get(value)
        if source is None or len(source.dims) < 2:
            continue
        held = float64(source)
        for name, array in weights.items():
            if array.shape == held.shape:
                scale = _scale(held, array.astype(np.float64))
                if scale is not None:
                    if not np.allclose(scale, 1.0, rtol=_COLLINEAR):
                        yield _explained(subject, node, name, scale, arrays, found)
                    break


def _scale(held: Float64, source: Float64) -> Float64 | None:
    """`[O]`, by which each channel was multiplied; None where they are not multiples."""
    one, other = held.reshape(len(held), -1), source.reshape(len(source), -1)
    power = (other**2).sum(1)
    if not (power > 0).any():
        return None
    scale: Float64 = np.divide((one * other).sum(1), power, out=np.zeros_like(power), where=power > 0)
    rest = np.linalg.norm(one - scale[:, None] * other)
    return scale if rest <= _COLLINEAR * np.linalg.norm(one) else None


def _explained(
    subject: Subject, node: Node, weight: str, scale: Float64, arrays: Mapping[str, Array], found: Sequence[Norm]
) -> Explained:
    fitting = [norm for norm in found if norm.mean.shape == scale.shape]
    expected = _behind(weight, arrays, fitting)
    # The one that stands behind it is asked first: layers that were never trained have equal statistics.
    for asked in ([expected] if expected is not None else [], fitting):
        fits = [fit for norm in asked for fit in _fits(norm, scale)]
        error, norm, epsilon = min(fits, key=lambda fit: fit[0], default=(np.inf, None, None))
        if norm is not None and error <= _EXPLAINED:
            bias = _bias_fits(subject, node, weight, scale, arrays, norm)
            return Explained(node, weight, norm, epsilon, bias, expected)
    return Explained(node, weight, None, None, None, expected)


def _behind(weight: str, arrays: Mapping[str, Array], fitting: Sequence[Norm]) -> Norm | None:
    """Checkpoints list layers in the order in which they were defined, which is nearly always that of their execution."""
    order = {name: position for position, name in enumerate(arrays)}
    later = [norm for norm in fitting if order[f"{norm.name}.running_mean"] > order[weight]]
    nearest = min(later, key=lambda norm: order[f"{norm.name}.running_mean"], default=None)
    if nearest is None:
        return None
    between = list(arrays)[order[weight] + 1 : order[f"{nearest.name}.running_mean"]]
    others = [name for name in between if arrays[name].ndim >= 2]
    return None if others else nearest


def _fits(norm: Norm, scale: Float64) -> Iterator[tuple[float, Norm, float]]:
    """How well the scale follows from a normalisation, for each epsilon: median relative error."""
    for epsilon in _candidates(norm, scale):
        with np.errstate(all="ignore"):
            wanted = norm.gamma / np.sqrt(norm.var + epsilon)
            error = float(np.median(np.abs(scale - wanted)) / np.median(np.abs(scale)))
        if np.isfinite(error):
            yield error, norm, epsilon


def _candidates(norm: Norm, scale: Float64) -> Iterator[float]:
    """The usual ones, and the one that solves the equation."""
    yield from EPSILONS
    with np.errstate(all="ignore"):
        solved = float(np.median((norm.gamma / scale) ** 2 - norm.var))
    if np.isfinite(solved) and solved > 0:
        yield float(f"{solved:.3g}")


def _bias_fits(
    subject: Subject, node: Node, weight: str, scale: Float64, arrays: Mapping[str, Array], norm: Norm
) -> bool | None:
    value = node.input(2)
    source = None if value is None else subject.constants.get(value)
    if source is None:
        return None
    held = float64(source).reshape(-1)
    before = arrays.get(f"{weight.removesuffix('weight')}bias")
    bias = np.zeros_like(scale) if before is None or before.shape != scale.shape else before.astype(np.float64)
    wanted = norm.beta + (bias - norm.mean) * scale
    if held.shape != wanted.shape:
        return None
    size = float(np.median(np.abs(norm.beta) + np.abs(norm.mean * scale))) or 1.0
    return bool(np.median(np.abs(held - wanted)) <= _EXPLAINED * size)
