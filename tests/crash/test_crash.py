"""A few kills and a few runs at once; `python -m tests.crash` and `tests.crash.together` do as many as there is time for.

In processes of their own, which have no threads.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_kill_at_every_step_and_at_random(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.crash", "--count", "40", "--seed", "1", "--dir", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = ast.literal_eval(done.stdout.strip().splitlines()[-1].rpartition("}")[0] + "}")
    assert counts["steps"] > 40
    assert counts["old pair"] > 20
    assert counts["new pair"] > 5
    assert list(tmp_path.iterdir()) == []


def test_runs_at_once_and_under_limits(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "tests.crash.together", "--rounds", "1", "--dir", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rounds, 0 problems" in done.stdout
    assert list(tmp_path.iterdir()) == []
