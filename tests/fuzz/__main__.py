"""`python -m tests.fuzz --seconds 600 [--norms | --whole]`: random models until the time is up; it prints mistakes, made small.

The models run in a child process: onnxruntime aborts on some of them, of a batch size that leaves a tensor empty.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import onnx

from tests.fuzz.examine import Kind, examine_norms, examine_seed
from tests.fuzz.whole import examine_whole

_ABORTED = "aborted in onnxruntime"


def main() -> int:
    """Run until the time is up; 1 if there were mistakes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; every model has its own")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--norms", action="store_true", help="models full of norms, for a target each")
    what.add_argument("--whole", action="store_true", help="on disk, with full verification, and once more")
    parser.add_argument("--keep", type=Path, help="a folder for the small models")
    arguments = parser.parse_args()
    examiner = examine_whole if arguments.whole else examine_norms if arguments.norms else examine_seed
    until, seed, edits = time.monotonic() + arguments.seconds, arguments.seed, 0
    counts: Counter[str] = Counter()
    while time.monotonic() < until:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            try:
                while time.monotonic() < until:
                    kind, made, message, small = pool.submit(examiner, seed).result()
                    counts[kind] += bool(kind)
                    edits += made
                    if small:
                        _show(seed, kind, message, small, arguments.keep)
                    seed += 1
            except BrokenProcessPool:
                counts[_ABORTED] += 1
                sys.stdout.write(f"seed {seed}: {_ABORTED}\n")
                seed += 1
    sys.stdout.write(f"{sum(counts.values())} models, {edits} edits, {dict(+counts)}; the next seed is {seed}\n")
    return 1 if any(counts[kind.value] for kind in Kind if kind.is_mistake) else 0


def _show(seed: int, kind: str, message: str, small: bytes, folder: Path | None) -> None:
    model = onnx.ModelProto.FromString(small)
    sys.stdout.write(f"seed {seed}: {kind}: {message}\n{onnx.printer.to_text(model)}\n")
    if folder is not None:
        onnx.save(model, folder / f"{kind.lower().replace(' ', '-')}-{seed}.onnx")


if __name__ == "__main__":
    raise SystemExit(main())
