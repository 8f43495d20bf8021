"""How much memory there is for a child process that nobody set a limit for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# Code, thread stacks and arenas: addresses that a process of onnxruntime takes before it holds any data.
_ADDRESSES = 4 << 30
# An input while it is drawn: in float64, in its own type, and in the file for the child.
BYTES_PER_ELEMENT = 16
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def system_memory() -> int | None:
    """Bytes of memory of this machine, or of this container if that is less; None where the system does not say."""
    found = [limit for limit in map(_cgroup, _CGROUPS) if limit]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def default_limit(mapped_bytes: int = 0) -> int | None:
    """Bytes of address space for a child that maps files of that size; more would only make the system kill somebody."""
    memory = system_memory()
    return None if memory is None else memory + mapped_bytes + _ADDRESSES


def _cgroup(path: Path) -> int | None:
    try:
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None
