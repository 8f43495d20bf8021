"""`python -m benchmarks.scale [--case NAME]`: the scale goals; exit 1 when one is missed."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.scale.cases import CASES
from benchmarks.scale.goal import Figure, goals_table
from benchmarks.table import markdown, show


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeatable; all without it")
    parser.add_argument("--runs", type=int, default=3, help="runs of each tool; the median counts")
    parser.add_argument("--workdir", type=Path, help="where the models go, about 10 GB; removed afterwards")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a drawn table")
    return parser.parse_args()


def main() -> int:
    """Run the cases and print the table."""
    options = arguments()
    figures: list[Figure] = []
    for name in options.case or list(CASES):
        print(name, file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
            figures += CASES[name](Path(folder), options.runs)
    if options.json:
        options.json.write_text(json.dumps([asdict(f) | {"verdict": f.verdict} for f in figures], indent=1) + "\n")
    table = goals_table(figures)
    if options.markdown:
        print(markdown(table))
    else:
        show(table)
    return int(any(figure.verdict == "FAIL" for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
