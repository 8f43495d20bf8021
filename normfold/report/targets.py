"""The tables of the targets as a document."""

from __future__ import annotations

from normfold._version import __version__
from normfold.model.dtypes import numpy_dtype
from normfold.report.schema import FormReport, KernelReport, SpellingReport, TargetReport, TargetsReport
from normfold.targets.facts import ANY_RANK, Declined, Form, Prefer, Support, Table, Threads
from normfold.targets.names import Target
from normfold.targets.tables import TABLES


def targets_report(target: Target | None = None) -> TargetsReport:
    """All targets, or one."""
    chosen = [table for name, table in TABLES.items() if target in (None, name)]
    return TargetsReport(version=__version__, targets=tuple(map(_target, chosen)))


def _target(table: Table) -> TargetReport:
    return TargetReport(
        target=table.target.value,
        title=table.title,
        versions=table.versions,
        norms=tuple(_form(form, table.rows[form]) for form in Form if form in table.rows),
        otherwise=table.elementary.value,
        kernels=tuple(map(_kernel, table.kernels)),
    )


def _form(form: Form, row: tuple[Prefer | Declined, ...]) -> FormReport:
    return FormReport(norm=form.value, spellings=tuple(map(_spelling, row)))


def _spelling(entry: Prefer | Declined) -> SpellingReport:
    if isinstance(entry, Declined):
        return SpellingReport(operator=entry.operator, condition="never", why=entry.message, reason_key=entry.key)
    return SpellingReport(operator=entry.operator, condition=_condition(entry), why=entry.reason)


def _condition(entry: Prefer) -> str:
    parts = [
        "with a precision bound" if entry.precise else "",
        {Threads.ANY: "", Threads.ONE: "one thread", Threads.MANY: "several threads"}[entry.threads],
        "" if entry.types is None else ", ".join(_types(entry.types)),
        f"opset {entry.from_opset} already" if entry.from_opset else "",
    ]
    return "; ".join(part for part in parts if part)


def _kernel(kernel: Support) -> KernelReport:
    return KernelReport(
        operator=f"{kernel.domain}.{kernel.operator}" if kernel.domain else kernel.operator,
        types=_types(kernel.types),
        least_rank=None if kernel.ranks[0] == ANY_RANK[0] else kernel.ranks[0],
        greatest_rank=None if kernel.ranks[1] == ANY_RANK[1] else kernel.ranks[1],
        newest_opset=kernel.newest,
        evidence=kernel.evidence.value,
        confirmed=kernel.evidence.is_confirmed,
        note=kernel.note,
        question=kernel.question,
    )


def _types(types: frozenset[int]) -> tuple[str, ...]:
    return tuple(sorted(str(numpy_dtype(data_type)) for data_type in types))
