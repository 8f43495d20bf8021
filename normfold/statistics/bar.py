"""What a report is held against: one rule for the exit code and for every document that says passed or failed."""

from __future__ import annotations

from dataclasses import dataclass

from normfold.statistics.schema import CheckReport, Finding, Severity, Status


@dataclass(frozen=True, slots=True)
class Bar:
    """The command line's `--fail-on` and `--strict`.

    Args:
        fail_on: the mildest severity that counts; "never" lets every finding pass.
        strict: what could not be decided counts as well.
    """

    fail_on: str = "error"
    strict: bool = False

    def failing(self, report: CheckReport) -> tuple[Finding, ...]:
        """The findings that count: root causes that are not suppressed, of this severity or a worse one."""
        if self.fail_on == "never":
            return ()
        limit = Severity(self.fail_on).rank
        return tuple(found for found in report.counted() if found.is_root_cause and found.severity.rank <= limit)

    def undecided(self, report: CheckReport) -> bool:
        """Whether something is inconclusive, and that counts."""
        statuses = (report.verdict, *(layer.status for layer in report.layers))
        return self.strict and Status.INCONCLUSIVE in statuses

    def exit_code(self, report: CheckReport) -> int:
        """0 or 1."""
        return int(bool(self.failing(report)) or self.undecided(report))

    def reason(self, report: CheckReport) -> str:
        """Why the exit code is 1, "" where it is 0."""
        reasons = []
        found = len(self.failing(report))
        if found:
            reasons.append(f"{found} finding{'' if found == 1 else 's'} at or above {self.fail_on}")
        if self.undecided(report):
            open_ = sum(layer.status is Status.INCONCLUSIVE for layer in report.layers)
            what = (
                f"{open_} layer{'' if open_ == 1 else 's'} could not be decided" if open_ else "nothing could be judged"
            )
            reasons.append(f"{what}, which --strict does not let pass")
        return "; ".join(reasons)


DEFAULT_BAR = Bar()
