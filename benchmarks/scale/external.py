"""A model with external weights beside a plain copy of its files."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.generate.large import write_external
from benchmarks.measure.process import run
from benchmarks.scale.goal import Figure, ratio
from benchmarks.scale.runs import TIMEOUT, Done, once, typically
from benchmarks.tools import NORMFOLD, normfold_command, normfold_works

MB = 1e6
_PAGE = 4096
# How much more memory is touched than the files take: a tool has buffers beside them.
_SPARE = 1.25


def external_case(work: Path, runs: int) -> list[Figure]:
    """A model of 3.2 GB with external weights: hardly dearer than copying its files, in little memory.

    A copy does not wait for the disk; what is compared with it does not either (`--no-sync`). What does is compared with a
    copy that does.
    """
    path = write_external(work)
    files = (path, path.with_name("model.onnx.data"))
    size = sum(file.stat().st_size for file in files)
    copies: dict[bool, list[float]] = {False: [], True: []}
    taken: list[Done | None] = []
    alike: dict[str, list[float | None]] = {"--no-sync": [], "--overlay": []}
    gone = not normfold_works()
    for _ in range(runs):
        for sync, seconds in copies.items():
            _touch(int(size * _SPARE))
            seconds.append(copy_seconds(files, work, sync))
        _touch(int(size * _SPARE))
        os.sync()
        taken += [] if gone else [once(NORMFOLD, path)]
        for option, seconds_with in alike.items():
            _touch(int(size * _SPARE))
            os.sync()
            seconds_with += [] if gone else [_seconds_with(option, path)]
    plain, synced = (statistics.median(copies[sync]) for sync in (False, True))
    ours = typically(taken)
    unsynced, beside = (_median(alike[option]) for option in ("--no-sync", "--overlay"))
    return [
        Figure("external", "size of the files", size / MB, unit="MB"),
        Figure("external", "copying the files", plain),
        Figure("external", "copying the files, with fsync", synced),
        Figure("external", "normfold, wall", ours and ours.wall),
        Figure("external", "normfold --no-sync / copying", ratio(unsynced, plain), 1.5, "×", gone),
        Figure("external", "normfold / copying", ratio(ours and ours.wall, plain), unit="×"),
        Figure("external", "normfold / copying with fsync", ratio(ours and ours.wall, synced), 1.5, "×", gone),
        Figure("external", "normfold --overlay / copying", ratio(beside, plain), 1.5, "×", gone),
        Figure("external", "normfold, peak", ours and ours.peak / MB, 500.0, "MB", gone),
        Figure("external", "normfold, BatchNorms left", ours and ours.norms, 0, "nodes", gone),
    ]


def _median(seconds: list[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return statistics.median(known) if known and len(known) == len(seconds) else None


def _seconds_with(option: str, source: Path) -> float | None:
    """Seconds to write a result beside the source, removed afterwards; None where that failed."""
    cost = run([*normfold_command(source, source.with_name("made.onnx")), option], TIMEOUT)
    for made in source.parent.glob("made*"):
        made.unlink()
    return cost.wall if cost.ok else None


def copy_seconds(files: tuple[Path, ...], work: Path, sync: bool) -> float:
    """Seconds to copy `files` within `work`; with `sync`, until they are on the disk."""
    copies = [work / f"copy-{path.name}" for path in files]
    os.sync()  # what others have yet to write is not this copy's cost
    start = time.perf_counter()
    for path, copy in zip(files, copies, strict=True):
        shutil.copyfile(path, copy)
        if sync:
            with copy.open("rb+") as file:
                os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    for copy in copies:
        copy.unlink()
    return seconds


def _touch(count: int) -> None:
    """Have so many bytes of free memory behind it, which whoever writes next will get.

    A virtual machine gives free pages back, and getting them again may cost more than the copy that fills them.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    np.empty(min(count, free // 2), np.uint8)[::_PAGE] = 1
