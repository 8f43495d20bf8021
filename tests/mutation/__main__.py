"""`python -m tests.mutation`: every guard of the rules is left out once, and some test must notice.

The rules are copied with a switch on each guard. One run of the tests says which tests make which guard speak; then each
guard is switched off and only those tests run, in a child of its own that is forked from a process that has collected them
(`server.py`). A guard that no test makes speak, or that nobody misses, survives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.mutation.equivalent import without_equivalents
from tests.mutation.guards import Guard, instrument, refusing, sources

ROOT = Path(__file__).parents[2]
_COPIED = ("normfold", "cli", "models", "tests", "benchmarks", "docs", "pyproject.toml")
_TESTS = ("tests/affine", "tests/merge", "tests/norm", "tests/targets", "tests/surgery")
# One thread per child: a fork does not inherit threads, and there are as many children as processors.
_ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def copy(to: Path, only: list[str]) -> list[Guard]:
    """The checkout, its rules with switches; the guards."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.onnx.data"))
        else:
            shutil.copy(source, to / name)
    shared = ROOT / "shared"
    if shared.exists():
        (to / "shared").symlink_to(shared.resolve())
    guards: list[Guard] = []
    refuse = refusing(path.read_text("utf-8") for path in sources(to, []))
    for path in sources(to, only):
        text, found = instrument(path.read_text("utf-8"), str(path.relative_to(to)), len(guards), refuse)
        path.write_text(text, "utf-8")
        guards += found
    return guards


def judged(folder: Path, guards: list[Guard], options: argparse.Namespace) -> dict[str, Any]:
    """Run the tests of the copy; the numbers of the guards that survive."""
    order = {
        "guards": [guard.number for guard in guards],
        "names": {guard.number: str(guard) for guard in guards},
        "jobs": options.jobs,
        "tests": options.most,
        "seconds": options.seconds,
        "progress": os.dup(2),
    }
    place = folder / "order.json"
    place.write_text(json.dumps(order), "utf-8")
    environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(folder), "NORMFOLD_MUTATION_ORDER": str(place)}
    line = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "tests.mutation.server",
    ]
    line += ["--basetemp", str(folder / "tmp"), *(options.tests or _TESTS)]
    done = subprocess.run(
        line, cwd=folder, env=environment, capture_output=True, pass_fds=[order["progress"]], check=False
    )
    result = folder / "result.json"
    if not result.exists():
        raise SystemExit(
            done.stdout.decode("utf-8", "replace")[-4000:] + done.stderr.decode("utf-8", "replace")[-4000:]
        )
    found: dict[str, Any] = json.loads(result.read_text("utf-8"))
    for name in found["broken"]:
        sys.stderr.write(f"{name} fails with every guard in place and was left out\n")
    return found


def score(guards: list[Guard], lost: set[int]) -> list[str]:
    """One line per table, and one for all."""
    total = Counter(str(Path(guard.path).parent) for guard in guards)
    caught = Counter(str(Path(guard.path).parent) for guard in guards if guard.number not in lost)
    lines = [f"{table}: {caught[table]} of {total[table]}" for table in sorted(total)]
    count = sum(caught.values())
    return [*lines, f"{count} of {len(guards)} guards are missed by a test: {count / max(1, len(guards)):.1%}"]


def main() -> int:
    """Print the survivors and the score; 1 if there are survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATH", help="rules whose path begins so; repeatable"
    )
    parser.add_argument("--tests", action="append", default=[], metavar="PATH", help=f"instead of {' '.join(_TESTS)}")
    parser.add_argument("--limit", type=int, help="so many guards, evenly spread over all")
    parser.add_argument("--jobs", type=int, default=2, help="children at a time (2)")
    parser.add_argument("--most", type=int, default=400, help="tests that are run without a guard, at most (400)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long they may take together (30)")
    parser.add_argument("--verbose", action="store_true", help="with the tests that made a survivor speak")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="normfold-mutation-") as name:
        folder = Path(name)
        guards = without_equivalents(copy(folder, options.only))
        if options.limit and options.limit < len(guards):
            guards = [guards[i * len(guards) // options.limit] for i in range(options.limit)]
        found = judged(folder, guards, options)
    silent, survivors = set(found["silent"]), set(found["survivors"])
    for title, group in (("no test makes it speak", silent), ("nobody misses it", survivors)):
        for guard in guards:
            if guard.number in group:
                sys.stdout.write(f"{guard}: {title}\n")
                if options.verbose and group is survivors:
                    sys.stdout.writelines(f"    {test}\n" for test in found["tests"][str(guard.number)][:5])
    sys.stdout.writelines(f"{line}\n" for line in score(guards, silent | survivors))
    return 1 if silent | survivors or found["broken"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
