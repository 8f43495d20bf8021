"""A fixed number of random models full of norms; `python -m tests.fuzz --norms` runs as many as there is time for."""

import pytest

from tests.fuzz.examine import TARGETS, Kind, examine
from tests.fuzz.norm_spellings import random_norms

SEEDS_IN_A_BATCH = 45


@pytest.mark.parametrize("batch", range(4))
def test_random_norms_stay_what_they_are(batch):
    edits = 0
    for seed in range(batch * SEEDS_IN_A_BATCH, (batch + 1) * SEEDS_IN_A_BATCH):
        model, target = random_norms(seed), TARGETS[seed % len(TARGETS)]
        if model is None:
            continue
        outcome = examine(model, seed, target)
        assert outcome.kind in (Kind.FINE, Kind.SKIPPED), f"seed {seed}: {outcome.kind.value}: {outcome.message}"
        edits += outcome.edits
    assert edits > 20, "hardly anything is rewritten: the generator has gone astray"
