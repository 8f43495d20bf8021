"""Inline SVG for the HTML report. Numbers in, markup out; every string that came from a model is escaped on its way.

Colours are classes of the page's style sheet, so that a chart follows its light or dark form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from normfold.statistics.schema import LayerReport, Status

_CELL, _GAP, _PER_ROW = 22, 8, 30
_BAR, _LABEL, _PLOT = 20, 250, 420
_SIDE, _MARGIN = 220, 34
_BINS = 24


def path_through(layers: Sequence[LayerReport]) -> Markup:
    """The norms in execution order as a chain of dots: which is the root cause, and what comes behind it."""
    step, rows = _CELL + _GAP, max(1, math.ceil(len(layers) / _PER_ROW))
    width, height = _GAP + min(len(layers), _PER_ROW) * step, 10 + rows * (_CELL + 14)
    marks: list[Markup] = []
    for index, layer in enumerate(layers):
        x = _GAP + (index % _PER_ROW) * step + _CELL / 2
        y = 12 + (index // _PER_ROW) * (_CELL + 14) + _CELL / 2
        if (index + 1) % _PER_ROW and index + 1 < len(layers):
            marks.append(Markup('<line class="wire" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x, y, x + step, y))
        ring = Markup('<circle class="ring" cx="{}" cy="{}" r="{}"/>').format(x, y, _CELL / 2 + 2)
        marks.append(
            Markup('<g>{}<circle class="dot {}" cx="{}" cy="{}" r="{}"/><title>{}</title></g>').format(
                ring if layer.is_root_cause or _is_bad(layer) else "", _tone(layer), x, y, _CELL / 2 - 3, _title(layer)
            )
        )
    return _svg(width, height, marks, "The normalisation layers in execution order")


def drift(layers: Sequence[LayerReport], warn: float, fail: float) -> Markup:
    """J of each layer as bars on a root scale, with the limits of the two bands."""
    top = max([fail * 1.5, *(layer.j or 0.0 for layer in layers)])

    def at(value: float) -> float:
        return round(_LABEL + _PLOT * math.sqrt(min(max(value, 0.0), top) / top), 1)

    height = 26 + len(layers) * (_BAR + 6)
    marks: list[Markup] = []
    for limit, name in ((warn, "warn"), (fail, "fail")):
        x = at(limit)
        marks.append(Markup('<line class="limit {}" x1="{}" y1="18" x2="{}" y2="{}"/>').format(name, x, x, height))
        marks.append(Markup('<text class="axis" x="{}" y="12" text-anchor="middle">{:g}</text>').format(x, limit))
    for index, layer in enumerate(layers):
        y, value = 24 + index * (_BAR + 6), layer.j or 0.0
        marks.append(_bar(layer, y, at(value) - _LABEL, f"{value:.3g}"))
    return _svg(_LABEL + _PLOT + 70, height, marks, "Divergence J of each layer")


def explained(layers: Sequence[LayerReport], limit: float) -> Markup:
    """How well the weights before each layer explain its stored mean: correlation as bars."""
    height = 26 + len(layers) * (_BAR + 6)
    x = round(_LABEL + _PLOT * limit, 1)
    marks = [
        Markup('<line class="limit warn" x1="{}" y1="18" x2="{}" y2="{}"/>').format(x, x, height),
        Markup('<text class="axis" x="{}" y="12" text-anchor="middle">{:g}</text>').format(x, limit),
    ]
    for index, layer in enumerate(layers):
        value = layer.prediction.correlation if layer.prediction else None
        width = _PLOT * min(max(value or 0.0, 0.0), 1.0)
        marks.append(_bar(layer, 24 + index * (_BAR + 6), width, "–" if value is None else f"{value:.2f}"))
    return _svg(_LABEL + _PLOT + 70, height, marks, "Correlation of stored and predicted means")


def scatter(
    x: Sequence[float | None], y: Sequence[float | None], xlabel: str, ylabel: str, *, log: bool = False
) -> Markup:
    """One point for each channel, with the line on which both are equal. A logarithmic axis leaves out what is not positive."""
    points = [
        (math.log10(a), math.log10(b)) if log else (a, b)
        for a, b in zip(x, y, strict=False)
        if a is not None and b is not None and (not log or (a > 0 and b > 0))
    ]
    if not points:
        return Markup()
    values = [value for point in points for value in point]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.5
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return (value - low) / (high - low) * _SIDE

    left, base = _MARGIN + 16, _SIDE + 10
    marks = [
        Markup('<rect class="frame" x="{}" y="10" width="{}" height="{}"/>').format(left, _SIDE, _SIDE),
        Markup('<line class="equal" x1="{}" y1="{}" x2="{}" y2="10"/>').format(left, base, left + _SIDE),
    ]
    marks += [
        Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(left + place(a), base - place(b))
        for a, b in points
    ]
    for value in (low + pad, high - pad):
        shown = f"{10**value:.2g}" if log else f"{value:.2g}"
        marks.append(
            Markup('<text class="axis" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                left + place(value), base + 14, shown
            )
        )
        marks.append(
            Markup('<text class="axis" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
                left - 5, base - place(value) + 4, shown
            )
        )
    marks += _labels(left, base, xlabel, ylabel)
    return _svg(left + _SIDE + 10, base + 34, marks, f"{ylabel} against {xlabel}")


def histogram(series: Sequence[tuple[str, Sequence[float | None]]], label: str) -> Markup:
    """Distributions over channels on a logarithmic axis, one on top of the other; `series` are (class, values)."""
    logs = [(name, [math.log10(v) for v in values if v is not None and v > 0]) for name, values in series]
    known = [value for _, values in logs for value in values]
    if not known:
        return Markup()
    low, high = min(known), max(known)
    low, high = (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)
    counts = [(name, _binned(values, low, high)) for name, values in logs]
    most = max(max(bins) for _, bins in counts)
    left, base, width = _MARGIN + 16, _SIDE + 10, _SIDE / _BINS
    marks = [Markup('<rect class="frame" x="{}" y="10" width="{}" height="{}"/>').format(left, _SIDE, _SIDE)]
    for name, bins in counts:
        marks += [
            Markup('<rect class="bin {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
                name, left + i * width, base - tall, width - 0.6, tall
            )
            for i, count in enumerate(bins)
            if (tall := count / most * (_SIDE - 8))
        ]
    marks += [
        Markup('<text class="axis" x="{}" y="{}" text-anchor="{}">{:.2g}</text>').format(
            x, base + 14, anchor, 10**value
        )
        for x, anchor, value in ((left, "start", low), (left + _SIDE, "end", high))
    ]
    marks += _labels(left, base, label, "channels")
    return _svg(left + _SIDE + 10, base + 34, marks, label)


def _binned(values: Sequence[float], low: float, high: float) -> list[int]:
    bins = [0] * _BINS
    for value in values:
        bins[min(int((value - low) / (high - low) * _BINS), _BINS - 1)] += 1
    return bins


def _labels(left: int, base: int, x: str, y: str) -> list[Markup]:
    middle = 10 + _SIDE / 2
    return [
        Markup('<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            left + _SIDE / 2, base + 29, x
        ),
        Markup('<text class="name" x="11" y="{}" text-anchor="middle" transform="rotate(-90 11 {})">{}</text>').format(
            middle, middle, y
        ),
    ]


def _bar(layer: LayerReport, y: float, width: float, number: str) -> Markup:
    name = layer.node if len(layer.node) <= 38 else f"…{layer.node[-37:]}"
    return Markup(
        '<g><title>{}</title><text class="label" x="{}" y="{}" text-anchor="end">{}</text>'
        '<rect class="bar {}" x="{}" y="{}" width="{:.1f}" height="{}" rx="3"/>'
        '<text class="value" x="{:.1f}" y="{}">{}</text></g>'
    ).format(
        _title(layer), _LABEL - 10, y + 14, name, _tone(layer), _LABEL, y, max(width, 1.5), _BAR,
        _LABEL + max(width, 1.5) + 8, y + 14, number,
    )  # fmt: skip


def _is_bad(layer: LayerReport) -> bool:
    return layer.status is Status.FAIL and layer.collateral_of is None


def _tone(layer: LayerReport) -> str:
    return "collateral" if layer.collateral_of else layer.status.value


def _title(layer: LayerReport) -> str:
    cause = (
        ", root cause"
        if layer.is_root_cause
        else f", collateral of {layer.collateral_of}"
        if layer.collateral_of
        else ""
    )
    return f"{layer.node} ({layer.op_type}): {layer.status.value}{cause}"


def _svg(width: float, height: float, marks: Sequence[Markup], name: str) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {w:g} {h:g}" width="{w:g}" height="{h:g}" role="img" aria-label="{n}">{m}</svg>'
    ).format(w=width, h=height, n=name, m=Markup("").join(marks))
