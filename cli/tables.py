"""Reports -> terminal, for people. The only place with colour and tables; it computes nothing.

Every string that comes from a model is made harmless first: a node name may carry escape sequences or markup.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from .plain import plain
from .terminal import console as _console
from .terminal import safe as _safe

if TYPE_CHECKING:
    from normfold import InspectReport, Report
    from normfold.report.schema import VerificationReport
    from normfold.surgery.plan import Decision

_COLOUR = {
    "applied": "green",
    "refused": "yellow",
    "kept": "dim",
    "PASS": "green",
    "PASS (improved)": "green",
    "FAIL": "red",
    "OFF": "yellow",
}
_MOST_OUTPUTS = 12


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def status() -> AbstractContextManager[Status]:
    """A line that says what is going on."""
    return Console(stderr=True).status("starting")


def optimized(report: Report, *, verbose: bool) -> None:
    """The result of `optimize`."""
    console = _console()
    _operators(console, report)
    _decisions(console, [(d.code, d.outcome, d.op_type, d.node, d.message) for d in report.decisions], every=verbose)
    for dropped in report.dropped:
        console.print(f"[yellow]dropped[/] {_safe(dropped.node)}: {_safe(dropped.reason)}")
    if report.verification is not None:
        _verdict(console, report.verification)
    for warning in report.warnings:
        typer.echo(f"normfold: warning: {plain(warning)}", err=True)
    _last_line(console, report)


def _operators(console: Console, report: Report) -> None:
    changed = [op for op in report.ops if op.before != op.after]
    table = Table(box=None, pad_edge=False)
    for title, side in (("operator", "left"), ("before", "right"), ("after", "right")):
        table.add_column(title, justify="left" if side == "left" else "right")
    for op in changed:
        table.add_row(_safe(op.op_type), str(op.before), str(op.after))
    total = [sum(getattr(op, side) for op in report.ops) for side in ("before", "after")]
    table.add_row("all operators", *(str(count) for count in total))
    if report.bytes is not None and report.bytes.after is not None:
        table.add_row("size", _bytes(report.bytes.before), _bytes(report.bytes.after))
    console.print(table)


def _decisions(console: Console, rows: Sequence[tuple[str, str, str, str, str]], *, every: bool) -> None:
    if every:
        for code, outcome, op_type, node, message in rows:
            console.print(
                f"[{_COLOUR[outcome]}]{outcome:8}[/] {code:26} {_safe(op_type)} {_safe(node)}: {_safe(message)}"
            )
        return
    counts = Counter((outcome, code) for code, outcome, *_ in rows)
    for (outcome, code), count in sorted(counts.items()):
        console.print(f"[{_COLOUR[outcome]}]{outcome:8}[/] {code:26} ×{count}")


def _verdict(console: Console, found: VerificationReport) -> None:
    for output in found.outputs[:_MOST_OUTPUTS]:
        error = "n/a" if output.max_abs is None else f"{output.max_abs:.2g}"
        limit = "" if output.bound is None else f" (rounding allows {output.bound:.2g})"
        console.print(f"  {_safe(output.name)}: {output.status}, max abs {error}{limit}")
    if len(found.outputs) > _MOST_OUTPUTS:
        console.print(f"  and {len(found.outputs) - _MOST_OUTPUTS} more outputs")
    for line in found.evidence:
        console.print(f"  {_safe(line)}")
    for line in found.warnings:
        console.print(f"  [yellow]warning[/] {_safe(line)}")
    if found.random_inputs and found.outputs:
        console.print("  compared on random inputs; --inputs takes real ones")
    name = {"PASS": "PASSED", "FAIL": "FAILED", "OFF": "NOT VERIFIED"}.get(found.verdict, found.verdict)
    reason = f": {_safe(found.reason)}" if found.reason else ""
    console.print(f"[{_COLOUR.get(found.verdict, 'yellow')}]{name}[/]{reason}")


def _last_line(console: Console, report: Report) -> None:
    folded = sum(d.outcome == "applied" for d in report.decisions)
    left = sum(d.outcome == "refused" for d in report.decisions)
    path = _safe(report.input.path if report.input else "MODEL")
    if report.status == "planned":
        console.print(f"would apply {folded}, refuse {left}; nothing was written")
    elif report.output is not None:
        state = "wrote" if report.status == "optimized" else "nothing to do; wrote an equal copy to"
        console.print(f"{state} {_safe(report.output.path)}")
    if left and report.status != "planned":
        console.print(f"why {left} were not folded: normfold explain {path}")


def verified(report: VerificationReport) -> None:
    """The result of `verify`."""
    _verdict(_console(), report)


def explained(decisions: Sequence[Decision], node: str | None) -> None:
    """The result of `explain`."""
    console = _console()
    if not decisions:
        console.print("no norm and no affine" + (f" concerns {_safe(node)}" if node else " in this model"))
    _decisions(console, [(d.code, d.outcome.value, d.op_type, d.node, _told(d)) for d in decisions], every=True)


def _told(decision: Decision) -> str:
    """The message, with what is remarkable about the site and how exact the change is."""
    exact = "exact" if decision.exactness == "exact" else ""
    return "; ".join(part for part in (decision.message, exact, *decision.notes) if part)


def inspected(report: InspectReport) -> None:
    """The result of `inspect`."""
    console = _console()
    opsets = ", ".join(f"{_safe(domain)} {version}" for domain, version in report.opsets.items())
    size = _bytes(report.parameters_bytes)
    console.print(
        f"{_safe(report.path)}: IR {report.ir_version}, opset {opsets}, {report.nodes} nodes, {size} of weights"
    )
    console.print(f"inputs {_safe(', '.join(report.inputs))}; outputs {_safe(', '.join(report.outputs))}")
    if report.norms:
        table = Table(box=None, pad_edge=False)
        for title in ("norm", "operator", "channels", "parameters", "what optimize would do"):
            table.add_column(title, overflow="fold")
        for norm in report.norms:
            shown = ", ".join(f"{name} {_value(value)}" for name, value in norm.parameters.items())
            channels = "" if norm.channels is None else str(norm.channels)
            table.add_row(_safe(norm.node), _safe(norm.op_type), channels, _safe(shown), _safe(norm.foldable))
        console.print(table)
    console.print(f"{len(report.norms)} norms, {report.affines} affine operators with constants")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return "…".join(f"{item:.3g}" for item in value)
    return "not finite" if value is None else str(value)
