"""Every norm module of torch as torch writes it: recognised for what it is, rewritten, verified, and equal to torch."""

from __future__ import annotations

import os
from functools import cache

import pytest

import normfold
from normfold import Config
from normfold.targets.names import Target
from tests.model.build import run
from tests.norm.recognising import sites
from tests.norm.rewriting import assert_close, operators, stable
from tests.norm.torch_norms import ITEMS, exported, inputs, network, truth

IS_SLOW = bool(os.environ.get("NORMFOLD_SLOW_TESTS"))
SCRIPT_OPSETS = range(11, 24)
DYNAMO_OPSETS = range(18, 24)
OFTEN = {"script": (11, 17, 23), "dynamo": (21,)}
# TorchScript has no such operator; and it knows a tracked InstanceNorm for a fixed batch only.
NOT_IN_SCRIPT = ("rms", "rms_plain", "rms_wide")
FIXED_BATCH = "instance_tracked"
TARGETS = (Target.PORTABLE, Target.ORT_CPU)


def cases():
    for exporter, opsets in (("script", SCRIPT_OPSETS), ("dynamo", DYNAMO_OPSETS)):
        for opset in opsets:
            skip = pytest.mark.skipif(not IS_SLOW and opset not in OFTEN[exporter], reason="set NORMFOLD_SLOW_TESTS")
            yield pytest.param(exporter, opset, marks=skip, id=f"{exporter}-{opset}")


def names_of(exporter):
    skipped = (*NOT_IN_SCRIPT, FIXED_BATCH) if exporter == "script" else ()
    return tuple(name for name in ITEMS if name not in skipped)


@cache
def torch_network(exporter):
    return network(names_of(exporter))


@cache
def model_of(exporter, opset):
    return exported(torch_network(exporter), opset, dynamo=exporter == "dynamo")


@cache
def wanted(exporter):
    return list(truth(torch_network(exporter)).values())


@pytest.mark.parametrize(("exporter", "opset"), list(cases()))
def test_recognised_rewritten_and_equal(exporter, opset):
    model = model_of(exporter, opset)
    producers = {name: item for item in model.graph.node for name in item.output}
    found = {site.output.name: site.norm.kind.value for site in sites(model)}
    for name in names_of(exporter):
        last = producers[f"y_{name}"].input[0]  # in front of the Tanh
        assert found.get(last) == ITEMS[name].kind, f"{name}: {found.get(last)}"
    for target in TARGETS:
        result, plan = stable(model, target)
        assert_close(run(result, inputs()), wanted(exporter), 2e-5)
        assert "GroupNormalization" not in operators(result)
        assert plan.norms
        if target is Target.ORT_CPU:
            assert operators(result)["ReduceMean"] <= 4  # those of the two near-misses


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("exporter", "opset"), [("script", 13), ("dynamo", 21)])
def test_verified(exporter, opset, target):
    model = model_of(exporter, opset)
    result = normfold.optimize(model, config=Config(target=target))
    assert result.report.status == "optimized"
    assert result.report.verification.verdict.startswith("PASS")
    assert not result.report.dropped
    assert_close(run(result.model, inputs()), wanted(exporter), 2e-5)


@pytest.mark.parametrize("opset", [11, 17])
def test_a_tracked_instance_norm_is_an_affine(opset):
    """In inference it is a BatchNormalization with constant statistics: for folding, and not for norms."""
    made = network((FIXED_BATCH, "instance_2d_affine"))
    model = exported(made, opset, dynamic=False)
    assert operators(model)["BatchNormalization"] == 1
    assert [site.norm.kind.value for site in sites(model)] == ["InstanceNorm"]
    result, _ = stable(model, Target.ORT_CPU)
    assert_close(run(result, {"image": inputs()["image"]}), list(truth(made).values()), 2e-5)
