"""`check` on models that nobody in this project wrote: it has something to say, or nothing, but never falls over."""

from __future__ import annotations

from collections import Counter

import pytest

import normfold
from normfold import InputError
from normfold.checking import exit_code
from normfold.statistics.codes import RULES
from tests.test_corpus import CORPUS, PEERS, REAL

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus does not lie beside this checkout")

REFUSED = {"gpt2_past": "graph.ssa"}


@pytest.mark.parametrize("path", [*REAL, *PEERS], ids=lambda path: path.stem)
def test_every_model_can_be_examined(path) -> None:  # type: ignore[no-untyped-def]
    try:
        report = normfold.check(path)
    except InputError as error:
        assert REFUSED.get(path.stem) == error.code
        return
    assert path.stem not in REFUSED
    assert report.verdict is not None and report.summary and report.next_step
    assert exit_code(report) in (0, 1)
    assert {finding.code for finding in report.findings} <= set(RULES)
    assert normfold.CheckReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_trained_models_are_not_accused(path) -> None:  # type: ignore[no-untyped-def]
    """Public models with real weights: nothing in their files is an error, and the predictor blames no layer of theirs."""
    report = normfold.check(path)
    counts = Counter(finding.code for finding in report.findings)
    assert not [finding for finding in report.findings if finding.severity == "error"]
    assert not counts.keys() & {"S01", "S02", "S03", "S09", "S10", "S13"}
