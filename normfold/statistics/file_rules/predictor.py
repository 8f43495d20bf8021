"""S09, S10 and S13 without data: do the stored means follow from the weights before them? (§9)

μ̂_o = Σ_k,i,j W_okij · e_k · f_i · f_j + b_o, where e_k is what is expected of input channel k and f_i the share of output
positions at which tap i does not lie in the padding. It finds gross errors only, so it never yields more than a warning,
and every layer is judged relative to the rest of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from normfold.model import attributes
from normfold.model.tensors import Float64
from normfold.statistics.file_rules.flow import Flow
from normfold.statistics.file_rules.values import is_default, readable
from normfold.statistics.file_rules.weights import Linear, linear_before
from normfold.statistics.findings import finding
from normfold.statistics.schema import Evidence, Finding
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject
from normfold.statistics.thresholds import Thresholds


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Predicted means of one layer, `[C]`, and how they compare with the stored ones."""

    site: StatSite
    predicted: Float64
    r2: float
    correlation: float
    slope: float


def predict(subject: Subject) -> tuple[Prediction, ...]:
    """A prediction for every layer for which one can be made."""
    flow = Flow(subject)
    found = []
    for site, mean, var in readable(subject):
        if is_default(mean, var) or not np.isfinite(mean).all():
            continue
        linear = linear_before(subject, site.x)
        if linear is None or linear.weight.shape[0] != mean.size:
            continue
        source = flow.expected(linear.data)
        predicted = None if source is None else _predicted(subject, linear, source.mean)
        if predicted is not None and np.isfinite(predicted).all():
            found.append(_compared(site, mean, predicted))
    return tuple(found)


def _predicted(subject: Subject, linear: Linear, expected: Float64) -> Float64 | None:
    outputs, inputs, *kernel = linear.weight.shape
    if expected.size != inputs * linear.groups or outputs % linear.groups:
        return None
    taps = linear.weight
    for axis in range(len(kernel) - 1, -1, -1):
        taps = taps @ _inside(subject, linear, axis, kernel[axis])
    taps = taps.reshape(linear.groups, outputs // linear.groups, inputs)
    sums = np.einsum("goi,gi->go", taps, expected.reshape(linear.groups, inputs))
    return np.asarray(sums.reshape(-1) + linear.bias)


def _inside(subject: Subject, linear: Linear, axis: int, size: int) -> Float64:
    """f: for each tap of a kernel axis, the share of output positions at which it reads the input; 1 where not known."""
    node, dims = linear.node, subject.shapes.dims(linear.data)
    rank = linear.weight.ndim - 2
    pads = attributes.ints(node, "pads") or [0] * (2 * rank)
    extent = dims[2 + axis] if dims is not None and len(dims) == rank + 2 else None
    automatic = attributes.get(node, "auto_pad", "NOTSET") != "NOTSET"
    if not isinstance(extent, int) or automatic or len(pads) != 2 * rank:
        return np.ones(size)
    stride, dilation = ((attributes.ints(node, name) or [1] * rank)[axis] for name in ("strides", "dilations"))
    positions = (extent + pads[axis] + pads[rank + axis] - dilation * (size - 1) - 1) // stride + 1
    if positions < 1:
        return np.ones(size)
    read = np.arange(positions) * stride - pads[axis] + np.arange(size)[:, None] * dilation
    return np.asarray(((read >= 0) & (read < extent)).mean(axis=1))


def _compared(site: StatSite, mean: Float64, predicted: Float64) -> Prediction:
    spread, square = float(((mean - mean.mean()) ** 2).sum()), float((predicted**2).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1.0 - float(((mean - predicted) ** 2).sum()) / spread if spread else np.nan
        slope = float((mean * predicted).sum()) / square if square else np.nan
        known = mean.size > 1 and spread > 0 and np.ptp(predicted) > 0
        correlation = float(np.corrcoef(mean, predicted)[0, 1]) if known else np.nan
    return Prediction(site, predicted, r2, correlation, slope)


def judge(predictions: tuple[Prediction, ...], thresholds: Thresholds) -> Iterator[Finding]:
    """What the predictions of all layers together say."""
    judged = [
        p for p in predictions if p.predicted.size >= thresholds.predictor_channels and np.isfinite(p.correlation)
    ]
    if len(judged) < thresholds.predictor_layers:
        return
    median = float(np.median([p.correlation for p in judged]))
    evidence = Evidence(name="median correlation", value=median, threshold=thresholds.predictor_correlation)
    if median < thresholds.predictor_correlation:
        message = (
            f"the stored means of {len(judged)} layers do not follow from the weights before them "
            f"(median correlation {median:.2f})"
        )
        yield finding("S09", message, evidence=(evidence,), nodes=tuple(p.site.label for p in judged))
        return
    if median < thresholds.predictor_healthy:
        return
    yield from (_isolated(prediction, median, thresholds) for prediction in _outliers(judged, thresholds))
    yield from _scaled(judged, thresholds)


def _outliers(judged: list[Prediction], thresholds: Thresholds) -> list[Prediction]:
    """Layers that are not explained among such that clearly are; nobody is blamed where many are, or are half explained.

    A few layers hold statistics of others; a whole stretch of them says that its inputs are modelled badly here.
    """
    wrong = [
        p
        for p in judged
        if p.correlation < thresholds.predictor_correlation
        or (p.r2 < 0 and p.correlation < thresholds.predictor_healthy)
    ]
    healthy = sum(p.correlation >= thresholds.predictor_healthy for p in judged)
    few = len(wrong) <= max(2, (1 - thresholds.predictor_clear) * len(judged))
    return wrong if few and healthy >= thresholds.predictor_clear * (len(judged) - len(wrong)) else []


def _isolated(prediction: Prediction, median: float, thresholds: Thresholds) -> Finding:
    """One layer that its weights do not explain, in a model in which the others are."""
    code = "S13" if prediction.r2 < 0 else "S09"
    message = (
        f"the stored mean does not follow from the weights before it (correlation {prediction.correlation:.2f}, "
        f"R² {prediction.r2:.2f}; median of the other layers {median:.2f})"
    )
    evidence = (
        Evidence(name="correlation", value=prediction.correlation, threshold=thresholds.predictor_correlation),
        Evidence(name="R²", value=prediction.r2, threshold=0.0),
    )
    return finding(code, message, site=prediction.site, evidence=evidence, channels=prediction.predicted.size)


def _scaled(judged: list[Prediction], thresholds: Thresholds) -> Iterator[Finding]:
    """A common slope that is not 1: every layer is short by one factor."""
    slopes = np.array([p.slope for p in judged if p.correlation >= thresholds.predictor_healthy])
    if len(slopes) < thresholds.predictor_layers:
        return
    slope = float(np.median(slopes))
    deviation = float(np.median(np.abs(slopes - slope)))
    inside = thresholds.predictor_slope_low <= slope <= thresholds.predictor_slope_high
    if inside or deviation > thresholds.predictor_slope_spread:
        return
    limit = thresholds.predictor_slope_low if slope < 1 else thresholds.predictor_slope_high
    message = (
        f"all stored means are {slope:.2f} times what the weights before them predict "
        f"({len(slopes)} layers agree within {deviation:.2f})"
    )
    yield finding("S10", message, evidence=(Evidence(name="common slope", value=slope, threshold=limit),))
