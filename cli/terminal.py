"""A console for results, and text that may be printed on it."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape

from .plain import plain


def safe(text: str, limit: int = 200) -> str:
    """Text that came from a model: no escape sequences, and no markup."""
    return escape(plain(text, limit))


class _Console(Console):
    """A console that reports a closed pipe to `main` instead of leaving with code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """Where results go."""
    return _Console(soft_wrap=not sys.stdout.isatty(), highlight=False, emoji=False)
