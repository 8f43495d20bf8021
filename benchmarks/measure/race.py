"""Inference, original against result in one process, in turns: `python -m … REFERENCE.npz ORIGINAL RESULT`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure.feeds import Feeds
from benchmarks.measure.reference import Reference
from benchmarks.measure.session import deployed

WARM_UP, FEWEST, SECONDS = 1, 5, 1.0


@dataclass(frozen=True)
class Race:
    """Median seconds of one inference under onnxruntime's defaults, one thread.

    Args:
        original: the original's median.
        result: the result's median.
        ratio: median over the pairs of original/result; above 1 the result is faster.
        rounds: how many pairs ran.
    """

    original: float
    result: float
    ratio: float
    rounds: int


def race(original: Path | bytes, result: Path | bytes, feeds: Feeds, seconds: float = SECONDS) -> Race:
    """Run both in turns, changing who goes first, for `seconds` and at least `FEWEST` rounds."""
    sessions = [deployed(original), deployed(result)]
    for _ in range(WARM_UP):
        for session in sessions:
            session.run(None, feeds)
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < FEWEST or time.perf_counter() < end:
        first = len(pairs) % 2
        times = {k: _time(sessions[k], feeds) for k in (first, 1 - first)}
        pairs.append((times[0], times[1]))
    before, after = zip(*pairs, strict=True)
    ratio = statistics.median(a / b for a, b in pairs)
    return Race(statistics.median(before), statistics.median(after), ratio, len(pairs))


def _time(session: Any, feeds: Feeds) -> float:
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start


def main(reference: str, original: str, result: str) -> None:
    """Print the race on the first trial's inputs as one JSON document."""
    feeds = Reference.load(Path(reference)).trials[0].feeds
    print(json.dumps(asdict(race(Path(original), Path(result), feeds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
