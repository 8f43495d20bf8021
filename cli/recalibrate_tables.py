"""What `recalibrate` and `stats` did, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from .terminal import console, safe

if TYPE_CHECKING:
    from normfold.statistics.measurement import MeasurementReport
    from normfold.statistics.recalibration.schema import RecalibrateReport

_MOST_LAYERS = 20


def recalibrated(report: RecalibrateReport) -> None:
    """The result of `recalibrate`, worst layers first."""
    out = console()
    written = "" if report.output is None else report.output.path
    if report.status == "restored":
        out.print(f"restored, byte for byte: {safe(written)}")
        return
    layers = sorted(report.layers, key=lambda layer: -(layer.j_before or 0.0))
    table = Table("layer", "status", "J before", "J after", "n", "n_eff", box=None, pad_edge=False)
    for layer in layers[:_MOST_LAYERS]:
        what = layer.status if not layer.reason else f"{layer.status}: {layer.reason}"
        numbers = (_number(layer.j_before), _number(layer.j_after), _count(layer.n), _count(layer.n_eff))
        table.add_row(safe(layer.node), safe(what), *numbers)
    out.print(table)
    if len(layers) > _MOST_LAYERS:
        out.print(f"and {len(layers) - _MOST_LAYERS} more")
    gate = report.gate
    if gate is not None:
        line = f"J of the worst layer: {_number(gate.j_before)} -> {_number(gate.j_after)} on {gate.samples} held-out samples"
        out.print(line)
        if gate.top1_changed is not None:
            out.print(f"answers that changed: {gate.top1_changed:.1%}")
        if gate.metric_before is not None and gate.metric_after is not None:
            out.print(f"right answers: {gate.metric_before:.1%} -> {gate.metric_after:.1%}")
    if written:
        out.print(f"written: {safe(written)}; back with --undo {safe(report.undo or '')}")
    else:
        out.print("nothing was written")


def measured(report: MeasurementReport) -> None:
    """What `stats` measured."""
    out = console()
    table = Table("layer", "n", "n_eff", box=None, pad_edge=False)
    for layer in report.layers[:_MOST_LAYERS]:
        table.add_row(safe(layer.node), str(layer.n), _count(layer.n_eff))
    if report.layers:
        out.print(table)
    if len(report.layers) > _MOST_LAYERS:
        out.print(f"and {len(report.layers) - _MOST_LAYERS} more")
    for node, reason in report.skipped.items():
        out.print(f"not measured: {safe(node)}: {safe(reason)}")
    shards = "" if report.shards is None else f", shards {safe(report.shards)}"
    out.print(f"{report.samples} samples, {len(report.layers)} layers{shards}; written: {safe(report.output)}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
