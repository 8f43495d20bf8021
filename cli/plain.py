"""Text that came from a model or a path, made harmless for a terminal."""

from __future__ import annotations

import unicodedata

_SPACE = "\n\t\r\v\f\x85\u2028\u2029"
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def plain(text: str, limit: int = 500) -> str:
    """Text without control, format or direction characters, on one line."""
    shown = "".join(" " if c in _SPACE else "�" if unicodedata.category(c) in _HIDDEN else c for c in text)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
