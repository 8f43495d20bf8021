"""Findings that are known and do not count: a file that says which, and why.

    [[suppress]]
    code = "M01"
    node = "generator/*"          # a pattern; left out: every node
    reason = "batch statistics are wanted here"

Read by the command line (`--suppress FILE`) and applied when the report is put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normfold.errors import UsageError
from normfold.statistics.codes import RULES
from normfold.statistics.schema import Finding, SuppressionReport
from normfold.statistics.toml_errors import explain, read_toml


class Suppression(BaseModel):
    """One entry.

    Args:
        code: of the catalogue.
        node: label or key of a node, or a pattern with * and ?.
        reason: for the report; it must not be empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    node: str = "*"
    reason: str = Field(min_length=1)

    def covers(self, finding: Finding) -> bool:
        """Whether a finding is meant."""
        names = {finding.node, finding.key}
        return self.code == finding.code and (self.node in names or any(fnmatchcase(name, self.node) for name in names))


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    suppress: tuple[Suppression, ...] = ()


def load_suppressions(path: Path) -> tuple[Suppression, ...]:
    """Read a suppressions file.

    Raises:
        UsageError: `config.*`, it cannot be read, has an unknown key, or names a code that does not exist.
    """
    try:
        entries = _File.model_validate(read_toml(path)).suppress
    except ValidationError as error:
        raise explain(error, _File, str(path)) from None
    for entry in entries:
        if entry.code not in RULES:
            raise UsageError(
                "config.code",
                f"no finding has the code {entry.code!r}",
                where=str(path),
                hint="`normfold rule` lists them all",
            )
    return entries


def suppress(
    findings: Sequence[Finding], entries: Sequence[Suppression]
) -> tuple[list[Finding], tuple[SuppressionReport, ...]]:
    """The findings with the reason in those that are covered, and how often each entry applied."""
    used = [0] * len(entries)
    result: list[Finding] = []
    for finding in findings:
        index = next((i for i, entry in enumerate(entries) if entry.covers(finding)), None)
        if index is None:
            result.append(finding)
            continue
        used[index] += 1
        result.append(finding.model_copy(update={"suppressed": entries[index].reason}))
    reports = tuple(
        SuppressionReport(code=entry.code, node=entry.node, reason=entry.reason, used=count)
        for entry, count in zip(entries, used, strict=True)
    )
    return result, reports
