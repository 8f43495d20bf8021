"""No model is written wrongly, and none makes the planner stumble."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest

import normfold
from normfold import Config
from normfold.targets.names import Target
from tests.model.build import net, run
from tests.norm.hostile import DIMS, MODELS, WEIGHTS, H, layer
from tests.norm.recognising import sites
from tests.norm.rewriting import RUNNABLE, assert_close, feed, operators, stable

SIZES = {"n": H}
# Of a norm by nearly nothing, or with numbers at the end of the range, rounding decides.
LOOSE = {"float16": 5e-3, "float16, gamma beyond": 5e-3, "huge gamma": 1e-4}
STAY = (
    "overridable epsilon",
    "everything overridable",
    "infinite epsilon",
    "shape unknown",
    "statistics of one element",  # no dimension is reduced
)
# Found, and left as it is: both statistics have to be taken anyway.
BORROWED = ("everything is an output",)
# What a function gets is known where it is called: the recogniser alone does not look there.
IN_FUNCTIONS = ("a function", "a function called once", "a function with parameters", "epsilon of the caller")


def feeds_of(name, model):
    if name in ("shape unknown", "extents unknown"):
        return {"x": np.random.default_rng(0).normal(size=(2, 3, H)).astype(np.float32)}
    return feed(model, SIZES)


@pytest.mark.parametrize("name", MODELS)
def test_every_target_writes_the_same_function(name):
    model = MODELS[name]()
    before = model.SerializeToString(deterministic=True)
    feeds = feeds_of(name, model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = run(model, feeds)
    for target in Target:
        result, plan = stable(model, target)
        assert name not in (*STAY, *BORROWED) or not plan.norms
        if target in RUNNABLE:
            assert_close(run(result, feeds), wanted, LOOSE.get(name, 2e-5))
        if target is Target.PORTABLE and _is_valid(model):
            onnx.checker.check_model(result, full_check=True)
    assert model.SerializeToString(deterministic=True) == before


def _is_valid(model):
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


@pytest.mark.parametrize("name", MODELS)
def test_what_is_found_holds(name):
    model = MODELS[name]()
    found = sites(model)
    assert bool(found) is (name not in (*STAY, *IN_FUNCTIONS))


def test_no_elements():
    """Nothing is normalised of nothing; and a mean of nothing is not a number."""
    for dims in ([0, 3, H], [2, 0, H], ["n", 0, H], [2, 3, 0]):
        nodes = layer() if dims[-1] else [*layer()[:7], onnx.helper.make_node("Identity", ["n"], ["y"])]
        model = net(nodes, {"x": dims}, ["y"], WEIGHTS)
        for target in Target:
            stable(model, target)


def test_an_empty_batch_stays_possible():
    model = MODELS["plain"]()
    for target in RUNNABLE:
        result, _ = stable(model, target)
        assert run(result, {"x": np.zeros((0, 3, H), np.float32)})[0].shape == (0, 3, H)


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ORT_CPU])
@pytest.mark.parametrize(
    "name", ["old company", "names that are taken", "a loop", "norms in branches", "duplicates", "IR 3"]
)
def test_the_whole_pipeline(name, target):
    model = MODELS[name]()
    result = normfold.optimize(model, config=Config(target=target))
    assert result.report.verification.verdict.startswith("PASS")
    assert result.changed
    feeds = feeds_of(name, model)
    assert_close(run(result.model, feeds), run(model, feeds), 2e-5)


def test_functions_and_bodies_are_rewritten():
    for name in (*IN_FUNCTIONS, "a loop", "a scan", "norms in branches"):
        result, plan = stable(MODELS[name](), Target.PORTABLE)
        assert plan.norms, name
        assert "LayerNormalization" in str(result)
    assert operators(stable(MODELS["duplicates"](), Target.PORTABLE)[0])["LayerNormalization"] == 3
    assert DIMS[-1] == H
