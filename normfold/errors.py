"""Everything that normfold raises on purpose.

    NormfoldError            the user can act on it: `code`, one-line message, `where`, `hint`
    ├── UsageError           a wrong argument or combination of arguments
    ├── InputError           the model, its external data or a data file cannot be used
    ├── OutputError          the destination cannot be written, or would overwrite what it must not
    ├── EnvironmentProblem   a missing, doubled or failing dependency
    ├── WorkerError          the child process that runs native code crashed, ran out of time or memory
    └── GateError            the verification gate said no; nothing was written

Anything else that escapes is a bug in normfold. A rule that declines is not an error: it is a `Decision`.
"""

from __future__ import annotations

from typing import Any


class NormfoldError(Exception):
    """A problem that the user can fix.

    Args:
        code: stable dotted identifier, for example `input.empty`; pipelines branch on it.
        message: what is wrong, one line, without a full stop at the end.
        where: the file, tensor or node concerned, or "".
        hint: how to fix it, one line, or "".
    """

    exit_code = 2

    def __init__(self, code: str, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """An error crosses processes as a whole."""
        return _rebuilt, (type(self), self.code, self.message, self.where, self.hint)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        fix = f" - {self.hint}" if self.hint else ""
        return f"{place}{self.message}{fix}"


def _rebuilt(kind: type[NormfoldError], code: str, message: str, where: str, hint: str) -> NormfoldError:
    return kind(code, message, where=where, hint=hint)


class UsageError(NormfoldError):
    """A wrong argument or combination of arguments."""


class InputError(NormfoldError):
    """The model, its external data or a data file cannot be used."""


class OutputError(NormfoldError):
    """The destination cannot be written, or would overwrite what it must not."""


class EnvironmentProblem(NormfoldError):
    """A missing, doubled or failing dependency."""


class WorkerError(NormfoldError):
    """The child process that runs native code crashed, timed out, ran out of memory or left no result."""


class GateError(NormfoldError):
    """Verification refused the candidate; nothing was written."""

    exit_code = 1
