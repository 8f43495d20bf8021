"""A norm is confirmed in whatever way it is spelled."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.norm.confirm import confirm
from normfold.norm.probes import QUICK, THOROUGH
from normfold.norm.reasons import Refused
from tests.model.build import node
from tests.norm.spellings import SPELLINGS, norm_of, torch_layer_norm


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("thorough", [True, False])
def test_every_spelling_is_confirmed(name, thorough):
    found = SPELLINGS[name]().confirm(thorough=thorough)
    assert found.worst < 0.5, "the bound is wide enough not to depend on luck"
    assert set(found.run) | set(found.skipped) == {probe.name for probe in (THOROUGH if thorough else QUICK)}
    assert not set(found.run) & set(found.skipped)


def test_all_probes_run_on_a_norm_with_an_epsilon():
    found = torch_layer_norm().confirm()
    assert found.skipped == ()
    assert len(found.run) == 13


def test_unknown_extents_are_two_sets_of_numbers():
    assert torch_layer_norm().confirm().shapes == ((2, 3, 24), (3, 2, 24))
    assert torch_layer_norm().confirm(thorough=False).shapes == ((2, 3, 24),)
    assert torch_layer_norm((2, 3, 24)).confirm().shapes == ((2, 3, 24),)


def without_epsilon(dims=("batch", "length", 24)):
    case = torch_layer_norm(dims)
    return replace(case, weights={**case.weights, "e": np.float32(0)}).taken_for(epsilon=0.0)


def test_without_epsilon_zeros_must_come_out_undefined():
    found = without_epsilon().confirm()
    assert set(found.skipped) == {
        "deviation 0.1·√epsilon",
        "deviation √epsilon",
        "deviation 10·√epsilon",
        "constant rows",
    }
    assert "zeros" in found.run


@pytest.mark.parametrize("epsilon", [1e-12, 1e-8, 1e-3, 0.5])
def test_any_epsilon(epsilon):
    case = torch_layer_norm()
    stored = np.float32(epsilon)
    found = replace(case, weights={**case.weights, "e": stored}).taken_for(epsilon=float(stored)).confirm()
    assert found.skipped == ()


def test_a_snap_widens_the_bound_and_skips_what_it_hides():
    found = torch_layer_norm().confirm(snap=1e-8)
    assert found.skipped == ("mean 1000, deviation 1",)


def test_a_large_snap_that_hides_everything_is_no_confirmation():
    with pytest.raises(Refused, match="no probe proves anything"):
        torch_layer_norm().confirm(snap=1.0)


def test_no_affine_at_all():
    case = torch_layer_norm()
    plain = replace(case, nodes=[*case.nodes[:-2], node("Identity", ["n"], ["y"])])
    assert replace(plain, norm=norm_of(case.norm.dims, [2])).confirm().worst < 0.5


def test_it_is_fast_enough_to_ask_for_every_find():
    """A generous multiple of what it takes: a model has hundreds of norms."""
    case = torch_layer_norm()
    values, constants = load(case.model()).graph.values, Constants()

    def best(thorough, count):
        spent = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(count):
                confirm(constants, values["x"], values["y"], case.norm, thorough=thorough)
            spent.append((time.perf_counter() - start) / count)
        return min(spent)

    assert best(thorough=False, count=10) < 5e-3
    assert best(thorough=True, count=2) < 0.1
