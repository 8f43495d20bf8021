"""What one norm becomes may be what its neighbour was waiting for: one run does it all, and a second one finds nothing."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.model.load import load
from normfold.surgery.norms import plan_norms, plan_norms_across
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target
from tests.fuzz.norms import left_over, variants
from tests.support import positive, random
from tests.surgery.norm_models import IMAGE, C, Sheet, lowered

ORT_CPU, PORTABLE = Target.ORT_CPU, Target.PORTABLE


def two_over_channels() -> Sheet:
    """Two LayerNorms over the channels of an image in a row: each of them stands between two Transposes on the CPU."""
    sheet = Sheet()
    sheet.layer_norm("x", "h", at="a", axes=(1,), shape=(C, 1, 1))
    sheet.layer_norm("h", "y", at="b", axes=(1,), shape=(C, 1, 1))
    return sheet


def beta_of_another_shape() -> Sheet:
    """Keras' form, x·k + (beta - mean·k), of an InstanceNorm whose beta varies along positions: it ends with the Add alone."""
    sheet = Sheet()
    sheet.init |= {"g": positive(C, 1), "b": random(C, 8), "e": np.float32(1e-5)}
    sheet.mean("x", "m", (2,))
    sheet.add("d = Sub(x, m)", "p = Mul(d, d)")
    sheet.mean("p", "v", (2,))
    sheet.add("w = Add(v, e)", "s = Sqrt(w)", "i = Reciprocal(s)", "k = Mul(i, g)")
    sheet.add("a = Mul(x, k)", "mk = Mul(m, k)", "c = Sub(b, mk)", "y = Add(a, c)")
    return sheet


def test_the_transposes_between_two_norms_cancel() -> None:
    result = lowered(two_over_channels().model(IMAGE), ORT_CPU)
    assert result.operators == ["Transpose", "LayerNormalization", "LayerNormalization", "Transpose"]


def test_a_norm_that_another_spelling_left_becomes_an_operator() -> None:
    result = lowered(beta_of_another_shape().model(f"float[N,{C},8] x"), PORTABLE)
    assert result.operators == ["InstanceNormalization", "Add"]


def test_one_look_is_not_enough_for_them() -> None:
    """Else the tests above would hold without a second look."""
    for sheet, inputs in ((two_over_channels(), IMAGE), (beta_of_another_shape(), f"float[N,{C},8] x")):
        model = load(sheet.model(inputs))
        assert len(plan_norms(model, Exclusions({}), ORT_CPU).edits) < len(
            plan_norms_across(model, Exclusions({}), ORT_CPU).edits
        )


def test_an_edit_of_the_second_look_can_be_left_out() -> None:
    """Verification drops it by its identifier, and what the first look found stays."""
    model = load(two_over_channels().model(IMAGE))
    every = plan_norms_across(model, Exclusions({}), ORT_CPU).edits
    once = plan_norms(model, Exclusions({}), ORT_CPU).edits
    later = {edit.id: ("verification", "it differs") for edit in every if edit.id not in {e.id for e in once}}
    assert later
    left = plan_norms_across(model, Exclusions(later), ORT_CPU).edits
    assert {edit.id for edit in left} == {edit.id for edit in once}


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_random_nets_leave_nothing_for_a_second_plan(first: int) -> None:
    edits = 0
    for seed in range(first, first + 10):
        for model, target, threads in variants(seed):
            count, left = left_over(model, target, threads)
            assert not left, f"seed {seed}, {target.value}, threads {threads}"
            edits += count
    assert edits > 20, "hardly anything is rewritten: the generator has gone astray"
