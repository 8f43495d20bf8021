"""Every spelling of the product is recognised, with the epsilon, the axes, the gamma and the beta that it has."""

from __future__ import annotations

from dataclasses import fields

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.norm.product import CHOICES, LAYOUTS, Spelling, build, pairwise
from tests.norm.recognising import assert_means, sites

PAIRS = pairwise()
PARTS = 8


def check(spelling):
    model, expected = build(spelling)
    onnx.checker.check_model(model, full_check=True)
    found = {site.output.name: site for site in sites(model)}
    assert expected.output in found, f"{spelling}: {sorted(found)}"
    site = found[expected.output]
    assert site.base.name == "x"
    assert_means(
        site,
        axes=expected.axes,
        epsilon=expected.epsilon,
        centred=expected.centred,
        gamma=expected.gamma,
        beta=expected.beta,
        close=8 * expected.unit,
    )
    return site


def test_the_list_holds_every_pair_of_choices():
    assert set(CHOICES) == {item.name for item in fields(Spelling)}
    for name, choices in CHOICES.items():
        assert {getattr(spelling, name) for spelling in PAIRS} == set(choices)
    for name in ("square", "root", "affine"):
        for other in ("root", "affine", "layout"):
            met = {(getattr(spelling, name), getattr(spelling, other)) for spelling in PAIRS}
            impossible = {(a, b) for a in CHOICES[name] for b in CHOICES[other]} - met if name != other else set()
            assert all("two means" in pair or "everything" in pair for pair in impossible), impossible


@pytest.mark.parametrize("part", range(PARTS))
def test_pairwise(part):
    for spelling in PAIRS[part::PARTS]:
        check(spelling)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.builds(Spelling, **{name: st.sampled_from(choices) for name, choices in CHOICES.items()}).filter(
        lambda s: s.is_valid
    )
)
def test_sampled(spelling):
    check(spelling)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_nodes_of_a_norm_die_with_it(layout):
    """Nothing but what makes y is left: the operator can take the place of everything."""
    spelling = Spelling(layout=layout, affine="none", dynamic=False)
    model, _ = build(spelling)
    site = check(spelling)
    assert len(site.dead) == len(site.nodes) == len(model.graph.node) - 1
