"""`python -m tests.mutation`: every guard of the rules is left out once, and some test must notice.

The rules are copied with a switch on each guard. One run of the tests says which tests make which guard speak; then each
guard is switched off and only those tests run. A guard that no test makes speak, or that nobody misses, survives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.guards import Guard, instrument, sources

ROOT = Path(__file__).parents[2]
_COPIED = ("normfold", "cli", "models", "tests", "benchmarks", "docs", "pyproject.toml")
_TESTS = ("tests/affine", "tests/merge", "tests/surgery")
# More tests do not say more: a guard that none of these misses is not missed.
_MOST_TESTS = 40
_SECONDS = 300


def copy(to: Path, only: list[str]) -> list[Guard]:
    """The checkout, its rules with switches; the guards."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.onnx.data"))
        else:
            shutil.copy(source, to / name)
    guards: list[Guard] = []
    for path in sources(to, only):
        text, found = instrument(path.read_text("utf-8"), str(path.relative_to(to)), len(guards))
        path.write_text(text, "utf-8")
        guards += found
    return guards


def run(folder: Path, *arguments: str, **variables: str) -> int:
    """pytest in the copy; its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.mutation.probe", *arguments]
    try:
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, timeout=_SECONDS * 4, check=False)
    except subprocess.TimeoutExpired:
        return 1  # a search without end is noticed as well
    if done.returncode not in (0, 1):
        sys.stderr.write(done.stdout.decode("utf-8", "replace")[-2000:])
    return done.returncode


def speakers(folder: Path, tests: list[str]) -> dict[int, list[str]]:
    """The tests that make a guard speak, those with the fewest other guards first."""
    log = folder / "spoken.json"
    if run(folder, *tests, NORMFOLD_MUTATION_LOG=str(log)) != 0:
        raise SystemExit("the tests fail with every guard in place")
    spoken: dict[str, list[int]] = json.loads(log.read_text("utf-8"))
    found: dict[int, list[str]] = {}
    for test in sorted(spoken, key=lambda test: len(spoken[test])):
        for number in spoken[test]:
            found.setdefault(number, []).append(test)
    return found


def is_missed(folder: Path, guard: Guard, tests: list[str]) -> bool:
    """Whether a test fails without the guard."""
    return run(folder, "-x", *tests[:_MOST_TESTS], NORMFOLD_MUTANT=str(guard.number)) == 1


def main() -> int:
    """Print the survivors and the score; 1 if there are survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATH", help="rules whose path begins so; repeatable"
    )
    parser.add_argument("--tests", action="append", default=[], metavar="PATH", help=f"instead of {' '.join(_TESTS)}")
    parser.add_argument("--limit", type=int, help="so many guards, evenly spread over all")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="normfold-mutation-") as name:
        folder = Path(name)
        guards = copy(folder, options.only)
        if options.limit and options.limit < len(guards):
            guards = [guards[i * len(guards) // options.limit] for i in range(options.limit)]
        found = speakers(folder, options.tests or list(_TESTS))
        silent = [guard for guard in guards if guard.number not in found]
        asked = [guard for guard in guards if guard.number in found]
        with ThreadPoolExecutor(options.jobs) as pool:
            missed = list(pool.map(lambda guard: is_missed(folder, guard, found[guard.number]), asked))
    survivors = [guard for guard, was in zip(asked, missed, strict=True) if not was]
    for title, group in (("no test makes it speak", silent), ("nobody misses it", survivors)):
        for guard in group:
            sys.stdout.write(f"{guard}: {title}\n")
    caught = len(guards) - len(silent) - len(survivors)
    sys.stdout.write(f"{caught} of {len(guards)} guards are missed by a test: {caught / max(1, len(guards)):.1%}\n")
    return 1 if caught < len(guards) else 0


if __name__ == "__main__":
    raise SystemExit(main())
