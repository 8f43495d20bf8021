"""The catalogue of findings: complete, documented, and the same everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from normfold.statistics import from_file
from normfold.statistics.codes import RULES, catalogue, meaning
from normfold.statistics.thresholds import Thresholds
from normfold.surgery import codes as rewrites

ROOT = Path(__file__).parents[2]


def test_codes_have_the_form_that_is_promised() -> None:
    for code, rule in RULES.items():
        assert rule.code == code and re.fullmatch(r"[MSNDCX]\d\d", code)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", rule.name)
        assert rule.page.endswith(".") and rule.fix.endswith(".") and not rule.title.endswith(".")
        assert rule.file or rule.data or rule.reference, "there must be a way to find it"
        assert meaning(code) is not None
    assert len({rule.name for rule in RULES.values()}) == len(RULES)
    assert not RULES.keys() & rewrites.RULES.keys()
    assert meaning("S99") is None


def test_what_shows_in_the_file_is_looked_for_there() -> None:
    claimed = {code for code, rule in RULES.items() if rule.file}
    looked_for = {code for codes, _ in from_file.CHECKS for code in codes} | set(from_file.PREDICTED)
    assert looked_for == claimed


def test_the_page_is_the_committed_one() -> None:
    text = (ROOT / "docs" / "checks.md").read_text("utf-8")
    assert text == catalogue(), "run: python -m normfold.statistics.codes > docs/checks.md"
    command = [sys.executable, "-m", "normfold.statistics.codes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == catalogue()


# Read by the examiner of data.
WITH_DATA = re.compile(
    r"(mean_shift|log_std_ratio|bad_channels|top1|information)_(warn|fail)|equivalence_.*|shuffling.*"
    r"|false_discovery_rate|confidence|independent_samples|hypothesis_ratio|scale_spread|dead_relu"
)


def test_every_threshold_is_used() -> None:
    """One that nobody reads is a setting without effect."""
    sources = [path for path in (ROOT / "normfold").rglob("*.py") if path.name != "thresholds.py"]
    text = "\n".join(path.read_text("utf-8") for path in sources)
    unused = [name for name in Thresholds.model_fields if f".{name}" not in text]
    assert not [name for name in unused if not WITH_DATA.fullmatch(name)]
