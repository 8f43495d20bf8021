"""Damaged models: a fixed number of them, and every seed that was ever a finding. `python -m tests.fuzz.bytes` runs more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.mutants import mutant, originals
from tests.fuzz.survive import fate, survive

SEEDS_IN_A_BATCH = 400
KEPT = [int(line.split()[0]) for line in Path(__file__).with_name("kept_seeds.txt").read_text().splitlines() if line]


@pytest.mark.parametrize("batch", range(6))
def test_damaged_models_are_models_or_refused(batch: int) -> None:
    codes, models = set(), 0
    for seed in range(batch * SEEDS_IN_A_BATCH, (batch + 1) * SEEDS_IN_A_BATCH):
        found = survive(seed)
        assert not found.bug, f"seed {seed}: {found.bug}"
        codes.add(found.code)
        models += not found.code
    assert len(codes) > 6, "hardly anything is reached: the generator has gone astray"
    assert models > 20


@pytest.mark.parametrize("seed", KEPT)
def test_what_was_a_finding_once(seed: int) -> None:
    assert not survive(seed).bug


@pytest.mark.parametrize("number", range(len(originals())))
def test_what_is_damaged_is_sound(number: int) -> None:
    found = fate(originals()[number])
    assert (found.code, found.bug) == ("", "")


def test_a_seed_is_a_model() -> None:
    assert mutant(7) == mutant(7)
    assert len({mutant(seed) for seed in range(50)}) > 40
