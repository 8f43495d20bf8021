"""`python -m tests.fuzz.bytes --count 50000`: damaged models by number; those that nobody survives are printed and kept.

Every mutant goes through loading, planning, writing and `inspect` in a child process with a memory limit; one in
`--whole-every` goes through the command line, verification included. 0 crashes, hangs and unexpected exit codes are wanted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from tests.fuzz.mutants import mutant
from tests.fuzz.survive import survive

ROOT = Path(__file__).parents[2]
_BATCH = 100
_MEMORY = 4 << 30


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _batch(first: int, count: int) -> tuple[Counter[str], list[tuple[int, str]]]:
    fates = {seed: survive(seed) for seed in range(first, first + count)}
    return Counter(fate.code for fate in fates.values()), [(s, f.bug) for s, f in fates.items() if f.bug]


def _culprit(first: int, count: int) -> list[tuple[int, str]]:
    """The seeds of a batch that end their process."""
    found = []
    for seed in range(first, first + count):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_confine) as pool:
            try:
                pool.submit(_batch, seed, 1).result()
            except BrokenProcessPool:
                found.append((seed, "the process ended"))
    return found


def whole(seed: int) -> str:
    """What is wrong with how the command line answers to a mutant; "" if nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(mutant(seed))
        command = [sys.executable, "-m", "cli", "optimize", str(path), "--timeout", "20", "--trials", "1"]
        try:
            done = subprocess.run(
                [*command, "--max-memory", "4096"], cwd=ROOT, capture_output=True, timeout=180, check=False
            )
        except subprocess.TimeoutExpired:
            return "hang"
        left = {item.name for item in Path(folder).iterdir()} - {"m.onnx"}
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode not in (0, 1, 2):
        return f"exit code {done.returncode}: {said[-500:]}"
    if "Traceback" in said or "internal error" in said or "ended by" in said:
        return said[-1500:]
    if done.returncode and left:
        return f"exit code {done.returncode}, and yet there is {sorted(left)}"
    return ""


def main() -> int:
    """Run the seeds; 1 if there was a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.bytes", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--whole-every", type=int, default=500, help="0: none")
    options = parser.parse_args()
    start, counts, bugs = time.monotonic(), Counter[str](), list[tuple[int, str]]()
    end = options.seed + options.count
    pending = [(first, min(_BATCH, end - first)) for first in range(options.seed, end, _BATCH)]
    while pending:
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), initializer=_confine) as pool:
            running = {batch: pool.submit(_batch, *batch) for batch in pending}
            done = []
            for batch, future in running.items():
                try:
                    codes, found = future.result()
                except BrokenProcessPool:
                    bugs += _culprit(*batch)
                    done.append(batch)
                    break
                counts += codes
                bugs += found
                done.append(batch)
            pending = [batch for batch in pending if batch not in done]
    every = options.whole_every
    seeds = range(options.seed, end, every) if every else ()
    bugs += [(seed, problem) for seed in seeds if (problem := whole(seed))]
    for seed, bug in bugs:
        sys.stdout.write(f"seed {seed}: {bug}\n")
    seconds = time.monotonic() - start
    sys.stdout.write(
        f"{options.count} mutants, {len(seeds)} through the command line, {seconds:.0f} s, {dict(counts)}\n"
    )
    sys.stdout.write(f"{len(bugs)} findings\n")
    return 1 if bugs else 0


if __name__ == "__main__":
    raise SystemExit(main())
