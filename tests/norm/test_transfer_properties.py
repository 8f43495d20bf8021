"""A form claimed is a form met: what the abstract domain says of a tensor against the tensor itself, in float64."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.norm.chains import Chain, frames, met, said

CHAINS, PARTS = 320, 8
# What is smaller than this beside the largest number on the way is rounding.
UNITS = 1e-9


def claims(seed):
    """Every claim that a chain gives rise to: the value, what was said of it, and what it is."""
    chain = Chain(seed)
    x = np.random.default_rng(seed + 1).uniform(-2, 3, chain.shape)
    for loaded, frame in frames(chain):
        for item in frame.nodes:
            for value in item.outputs:
                fact = frame.fact(value)
                if fact is not None and not fact.partial:
                    yield chain, frame, value, fact, said(frame, fact, x), met(loaded, value, x)


@pytest.mark.parametrize("part", range(PARTS))
def test_claimed_is_met(part):
    kinds: Counter[str] = Counter()
    for seed in range(part, CHAINS, PARTS):
        for chain, frame, value, fact, wanted, got in claims(seed):
            where = f"seed {seed}: {value.name} over atoms {sorted(frame.axes)} of {frame.atoms}: {fact.form}"
            assert got is not None, where
            assert wanted is not None, f"{where}: varies along what the view has not"
            assert wanted.shape == got.shape, where
            size = max(1.0, *(np.abs(a[np.isfinite(a)]).max(initial=0) for a in (wanted, got)))
            if size > 1e6:
                continue
            known = np.isfinite(got) & np.isfinite(wanted)
            np.testing.assert_allclose(got[known], wanted[known], rtol=0, atol=UNITS * size * size, err_msg=where)
            kinds[type(fact.form).__name__] += bool(known.any()) and value.name != "x"
            assert chain.known[value.name] == got.shape
    assert min(kinds[name] for name in ("Poly", "Power", "Normal")) >= 20, kinds
