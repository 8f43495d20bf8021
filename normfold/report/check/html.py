"""The report of `check` as one page: no network, no script. Everything that came from a model is escaped by the template."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from normfold.errors import OutputError
from normfold.model.output_file import create, require_replaceable, sync
from normfold.report.check import charts
from normfold.statistics.codes import RULES
from normfold.statistics.schema import CheckReport, Finding, LayerReport, Status

_WORST_FIRST = (Status.FAIL, Status.WARN, Status.INCONCLUSIVE, Status.PASS, Status.SKIPPED, Status.NOT_APPLICABLE)
_MOST_BARS, _MOST_DETAILS, _MOST_NODES = 40, 6, 12


@dataclass(frozen=True, slots=True)
class Group:
    """Findings of one code, severity and standing: they share title and fix."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The one that speaks for all."""
        return self.findings[0]

    @property
    def title(self) -> str:
        """Of the catalogue."""
        return RULES[self.first.code].title

    @property
    def page(self) -> str:
        """Of the catalogue."""
        return RULES[self.first.code].page


@dataclass(frozen=True, slots=True)
class Detail:
    """The plots of one layer."""

    layer: LayerReport
    plots: tuple[Markup, ...]


def html(report: CheckReport) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("normfold.report.check", "templates"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    worst = sorted(
        report.layers, key=lambda layer: (_WORST_FIRST.index(layer.status), -(layer.j or 0.0), layer.position)
    )
    page = environment.get_template("check.html.j2").render(
        report=report,
        groups=_groups(report.findings),
        chain=charts.path_through(report.layers) if report.layers else "",
        drift=_drift(report, worst),
        explained=_explained(report),
        details=_details(worst),
        layers=worst,
        blamed=[
            layer for layer in worst if layer.is_root_cause or (layer.status is Status.FAIL and not layer.collateral_of)
        ],
        rules=RULES,
        most_nodes=_MOST_NODES,
    )
    return "".join("�" if (c < " " and c not in "\n\t") or c == "\x7f" else c for c in page)


def write_html(report: CheckReport, path: Path) -> None:
    """Write the page; nothing half written stays.

    Raises:
        OutputError: `output.is_input`, it would replace the model; `output.write`, the file cannot be written; or as
            `require_replaceable`.
    """
    require_replaceable(path, "report.html")
    if (
        report.input is not None
        and path.exists()
        and Path(report.input.path).exists()
        and path.samefile(report.input.path)
    ):
        raise OutputError(
            "output.is_input", "the page would replace the model", where=str(path), hint="choose another name"
        )
    text = html(report).encode("utf-8")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        try:
            with create(partial) as stream:
                stream.write(text)
                sync(stream)
            partial.replace(path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError("output.write", f"cannot be written: {error.strerror}", where=str(path)) from None


def _groups(findings: Sequence[Finding]) -> list[Group]:
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        key = (finding.code, finding.severity, finding.is_root_cause, finding.suppressed)
        groups.setdefault(key, []).append(finding)
    return [Group(tuple(found)) for found in groups.values()]


def _drift(report: CheckReport, worst: Sequence[LayerReport]) -> Markup:
    """The layers with the largest J, in execution order; nothing without data."""
    measured = sorted((layer for layer in worst if layer.j is not None), key=lambda layer: -(layer.j or 0.0))[
        :_MOST_BARS
    ]
    if not measured or report.thresholds is None:
        return Markup()
    shown = sorted(measured, key=lambda layer: layer.position)
    return charts.drift(shown, report.thresholds.j_warn, report.thresholds.j_fail)


def _explained(report: CheckReport) -> Markup:
    """The layers that are explained worst, in execution order."""
    known = [layer for layer in report.layers if layer.prediction and layer.prediction.correlation is not None]
    known.sort(key=lambda layer: (layer.prediction and layer.prediction.correlation) or 0.0)
    if not known or report.thresholds is None:
        return Markup()
    shown = sorted(known[:_MOST_BARS], key=lambda layer: layer.position)
    return charts.explained(shown, report.thresholds.predictor_correlation)


def _details(worst: Sequence[LayerReport]) -> list[Detail]:
    wanted = [layer for layer in worst if layer.j is not None or layer.status in (Status.FAIL, Status.WARN)]
    found = ((layer, _plots(layer)) for layer in wanted[:_MOST_DETAILS])
    return [Detail(layer, plots) for layer, plots in found if plots]


def _plots(layer: LayerReport) -> tuple[Markup, ...]:
    """Running against measured with data; stored against predicted, and what is stored, without."""
    channels = layer.channels
    if channels is None:
        return ()
    if channels.measured_var:
        plots = [
            charts.scatter(channels.mean, channels.measured_mean, "running mean", "measured mean"),
            charts.scatter(channels.var, channels.measured_var, "running variance", "measured variance", log=True),
            charts.histogram([("stored", channels.var), ("measured", channels.measured_var)], "variance"),
        ]
    else:
        plots = [
            charts.scatter(channels.mean, channels.predicted_mean, "running mean", "predicted from the weights"),
            charts.histogram([("stored", channels.var)], "running variance"),
            charts.histogram([("stored", [None if g is None else abs(g) for g in channels.gamma])], "|gamma|"),
        ]
    return tuple(plot for plot in plots if plot)
