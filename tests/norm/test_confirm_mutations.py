"""What is not the norm is refused: every mutation of the norm, in every spelling, and every look-alike of the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normfold.norm.reasons import Refused
from tests.model.build import node
from tests.norm.spellings import (
    ROOT,
    SPELLINGS,
    group_norm_channels_last,
    group_norm_idiom,
    layer_norm,
    rms,
    torch_layer_norm,
    variance,
)
from tests.norm.test_confirm_spellings import without_epsilon


def swapped(parameter):
    """Two elements change places."""
    if parameter is None or parameter.size < 2:
        return None
    flat = parameter.copy().reshape(-1)
    flat[[0, -1]] = flat[[-1, 0]]
    return flat.reshape(parameter.shape)


def mutations(norm):
    """(name, what to change) for every mistake that this norm leaves room for."""
    yield "epsilon + 1 %", {"epsilon": norm.epsilon * 1.01}
    yield "epsilon - 1 %", {"epsilon": norm.epsilon * 0.99}
    yield "c flipped", {"centred": not norm.centred}
    others = [axis for axis in range(norm.rank) if axis not in norm.axes and axis != norm.channel]
    if others:
        yield "one axis more", {"axes": tuple(sorted((*norm.axes, others[-1])))}
        if norm.scale is None:
            yield "another axis", {"axes": tuple(sorted((*norm.axes[1:], others[-1])))}
    if len(norm.axes) > 1:
        yield "one axis less", {"axes": norm.axes[1:]}
    for name in ("gamma", "beta"):
        if (changed := swapped(getattr(norm, name))) is not None:
            yield f"{name} permuted", {name: changed}
            yield f"{name} with the other sign", {name: -getattr(norm, name)}
            yield f"{name} lost", {name: None}
    if norm.gamma is not None:
        yield "gamma and beta swapped", {"gamma": norm.beta, "beta": norm.gamma}
    if norm.groups is not None:
        yield "twice the groups", {"groups": norm.groups * 2}
        yield "one group", {"groups": 1}
        yield "no groups", {"groups": None, "channel": None}


CASES = [
    pytest.param(spelling, changes, id=f"{name}: {mutation}")
    for name, spelling in SPELLINGS.items()
    for mutation, changes in mutations(spelling().norm)
    # of one row, an axis of extent 1 more is the same norm
    if not (name == "one row" and mutation == "one axis more")
]


@pytest.mark.parametrize(("spelling", "changes"), CASES)
@pytest.mark.parametrize("thorough", [True, False], ids=["thorough", "quick"])
def test_every_mutation_of_the_norm_is_refused(spelling, changes, thorough):
    case = spelling()
    with pytest.raises(Refused) as refusal:
        case.taken_for(**changes).confirm(thorough=thorough)
    assert refusal.value.key == "unconfirmed"
    assert "\n" not in refusal.value.message


def exponent(power):
    case = torch_layer_norm()
    return replace(case, weights={**case.weights, "two": np.float32(power)})


def epsilon_outside():
    core = [*variance(), node("Sqrt", ["v"], ["s0"]), node("Add", ["s0", "e"], ["s"]), node("Div", ["d", "s"], ["n"])]
    return layer_norm(core)


def between(op, *inputs, at="v", **weights):
    """The torch spelling with one more node behind the variance, or behind another value."""
    case = torch_layer_norm()
    nodes = []
    for old in case.nodes:
        inner = [f"{at}.old" if name == at else name for name in old.output]
        nodes.append(node(old.op_type, list(old.input), inner, **{a.name: list(a.ints) for a in old.attribute}))
        if at in old.output:
            nodes.append(node(op, [f"{at}.old", *inputs], [at]))
    return replace(case, nodes=nodes, weights={**case.weights, **weights})


def another_mean():
    case = torch_layer_norm()
    nodes = [node("ReduceMean", ["other"], ["m"], axes=[-1]), *case.nodes[1:]]
    return replace(case, nodes=nodes, inputs={**case.inputs, "other": case.inputs["x"]})


def variance_about_zero():
    """Keras `rms_scaling`: x is not centred and its variance is."""
    return layer_norm([*variance(), *ROOT[:2], node("Div", ["x", "s"], ["n"])])


def inverted():
    return layer_norm([*variance(), *ROOT[:2], node("Div", ["s", "d"], ["n"])])


def lost_dimension():
    """keepdims = 0: the statistic meets another axis, which has the same extent."""
    core = [
        node("ReduceMean", ["x"], ["m"], axes=[-1], keepdims=0),
        node("Sub", ["x", "m"], ["d"]),
        node("Mul", ["d", "d"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=[2], keepdims=0),
        *ROOT,
    ]
    return layer_norm(core, (24, 24, 24))


def guarded():
    """Rows without variance come out as zeros; so does the whole of them, beta or not."""
    case = torch_layer_norm()
    nodes = [
        *case.nodes[:-1],
        node("Equal", ["v", "zero"], ["flat"]),
        node("Add", ["t", "b"], ["y0"]),
        node("Where", ["flat", "zero", "y0"], ["y"]),
    ]
    return replace(case, nodes=nodes, weights={**case.weights, "zero": np.float32(0)})


def guarded_division():
    """Without an epsilon, and the root of zero replaced by one."""
    case = without_epsilon()
    nodes = [
        *case.nodes[:6],
        node("Equal", ["s", "zero"], ["flat"]),
        node("Where", ["flat", "one", "s"], ["safe"]),
        node("Div", ["d", "safe"], ["n"]),
        *case.nodes[7:],
    ]
    return replace(case, nodes=nodes, weights={**case.weights, "zero": np.float32(0), "one": np.float32(1)})


LOOK_ALIKES = {
    "exponent 4": lambda: exponent(4),
    "exponent 3": lambda: exponent(3),
    "exponent 1": lambda: exponent(1),
    "epsilon outside of the root": epsilon_outside,
    "variance clamped from below": lambda: between("Max", "floor", floor=np.float32(1e-3)),
    "variance clamped to epsilon": lambda: between("Max", "e"),
    "variance clamped from above": lambda: between("Min", "ceiling", ceiling=np.float32(20)),
    "y clipped": lambda: between("Clip", "low", "high", at="n", low=np.float32(-4), high=np.float32(4)),
    "x clipped": lambda: between("Clip", "", "high", at="d", high=np.float32(2)),
    "sign lost in front of the statistics": lambda: between("Abs", at="d"),
    "sign lost behind them": lambda: between("Abs", at="n"),
    "mean of another tensor": another_mean,
    "x not centred": variance_about_zero,
    "root over deviation": inverted,
    "keepdims = 0": lost_dimension,
    "groups interleaved": lambda: replace(
        group_norm_channels_last((4, 3), (1, 2, 3)), norm=group_norm_channels_last().norm
    ),
    "groups counted differently": lambda: replace(group_norm_idiom((0, 3, -1)), norm=group_norm_idiom().norm).taken_for(
        groups=4
    ),
    "unknown operator": lambda: between("Erf", at="n"),
    "affine of another shape": lambda: replace(
        rms(), weights={**rms().weights, "g": np.ones((2, 1, 1, 24), np.float32)}
    ),
}
THOROUGH_ONLY = {"guard on flat rows": guarded, "guard on the division": guarded_division}


@pytest.mark.parametrize("name", LOOK_ALIKES)
@pytest.mark.parametrize("thorough", [True, False], ids=["thorough", "quick"])
def test_what_only_looks_like_the_norm_is_refused(name, thorough):
    with pytest.raises(Refused):
        LOOK_ALIKES[name]().confirm(thorough=thorough)


@pytest.mark.parametrize("name", THOROUGH_ONLY)
def test_what_differs_on_flat_rows_alone_is_refused_where_they_are_tried(name):
    with pytest.raises(Refused, match=r"constant rows|zeros"):
        THOROUGH_ONLY[name]().confirm()


def test_the_message_names_the_probe():
    """An epsilon that is off by so little shows only where the variance is as small."""
    case = torch_layer_norm()
    with pytest.raises(Refused, match=r"probe 'deviation 0\.1·√epsilon' on shape \[2, 3, 24\]: off by .* is allowed"):
        case.taken_for(epsilon=case.norm.epsilon * (1 + 1e-8)).confirm()


def test_what_flows_in_from_elsewhere_is_named():
    with pytest.raises(Refused, match="'other' is no constant"):
        another_mean().confirm()


def test_an_operand_that_nobody_gives_is_named():
    case = SPELLINGS["dynamic affine"]()
    with pytest.raises(Refused, match="'scale'"):
        replace(case, operands=("shift",)).confirm()
