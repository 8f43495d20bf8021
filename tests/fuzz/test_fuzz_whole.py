"""A few models through everything; `python -m tests.fuzz --whole` takes as many as there is time for."""

import pytest

from normfold.config import Config
from tests.fuzz.examine import Kind
from tests.fuzz.generator import random_model
from tests.fuzz.whole import examine_files, examine_whole


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_models_on_disk_stay_what_they_are(seed):
    kind, _, message, _ = examine_whole(seed)
    assert kind in ("", Kind.FINE.value, Kind.SKIPPED.value), message


def test_what_was_a_finding_once():
    """An empty tensor stood in front of the sizes of a Resize in the data file, which were written as zeros."""
    model = random_model(700004)
    assert model is not None
    outcome = examine_files(model, 700004, Config(trials=1, verify="off"), outside=16)
    assert outcome.kind in (Kind.FINE, Kind.SKIPPED), outcome.message
    assert outcome.edits
