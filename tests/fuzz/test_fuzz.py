"""A fixed number of random models; `python -m tests.fuzz` runs as many as there is time for."""

import pytest

from tests.fuzz.examine import Kind, examine, examine_functions, optimise
from tests.fuzz.generator import random_model

SEEDS_IN_A_BATCH = 60


@pytest.mark.parametrize("batch", range(8))
def test_random_models_stay_what_they_are(batch):
    edits = 0
    for seed in range(batch * SEEDS_IN_A_BATCH, (batch + 1) * SEEDS_IN_A_BATCH):
        model = random_model(seed)
        if model is None:
            continue
        outcome = examine(model, seed)
        assert outcome.kind in (Kind.FINE, Kind.SKIPPED), f"seed {seed}: {outcome.kind.value}: {outcome.message}"
        edits += outcome.edits
    assert edits > 10, "hardly anything folds: the generator has gone astray"


@pytest.mark.parametrize("batch", range(4))
def test_random_models_fold_as_well_inside_of_functions(batch):
    flat = inside = 0
    for seed in range(batch * SEEDS_IN_A_BATCH, (batch + 1) * SEEDS_IN_A_BATCH):
        model = random_model(seed)
        if model is None:
            continue
        outcome = examine_functions(model, seed)
        assert outcome.kind in (Kind.FINE, Kind.SKIPPED), f"seed {seed}: {outcome.kind.value}: {outcome.message}"
        if outcome.kind is Kind.FINE:
            inside += outcome.edits
            flat += optimise(model)[1]
    assert inside >= flat > 10
