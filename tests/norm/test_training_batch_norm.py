"""BatchNormalization in training mode is a norm of its input where there is one sample, and nothing for norms elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.targets.names import Target
from tests.model.build import net, node, run
from tests.norm.rewriting import RUNNABLE, assert_close, exact, feed, operators, stable

C = 6
RNG = np.random.default_rng(3)
G, B = RNG.uniform(0.5, 1.5, C).astype(np.float32), RNG.normal(size=C).astype(np.float32)


def training(x="x", y="y", *, repeat=1, **attributes):
    """The node, and its parameters for `repeat` times as many channels; the running statistics are made and not read."""
    weights = {"g": np.tile(G, repeat), "b": np.tile(B, repeat), "rm": np.zeros(C * repeat), "rv": np.ones(C * repeat)}
    made = node("BatchNormalization", [x, "g", "b", "rm", "rv"], [y, "new_rm", "new_rv"], training_mode=1, **attributes)
    return made, {name: value.astype(np.float32) for name, value in weights.items()}


def check(model, wanted):
    """Every target writes the same function, which the runtime agrees with."""
    feeds = feed(model, {})
    for target in Target:
        result, _ = stable(model, target)
        assert wanted in operators(result), target
        assert "BatchNormalization" not in operators(result)
        assert_close(exact(result, feeds), exact(model, feeds), 1e-6)
        if target in RUNNABLE:
            assert_close(run(result, feeds), run(model, feeds), 2e-5)


@pytest.mark.parametrize("dims", [[1, C, 4, 5], [1, C, 7], [1, C, 2, 3, 4]])
def test_of_one_sample_it_is_an_instance_norm(dims):
    made, weights = training(epsilon=0.1)
    check(net([made], {"x": dims}, ["y"], weights), "InstanceNormalization")


def test_between_reshapes_it_is_an_instance_norm_of_every_sample():
    """As functional instance_norm used to be exported: samples and channels are one dimension."""
    made, weights = training("r", "n", repeat=2, epsilon=1e-3)
    nodes = [node("Reshape", ["x", "to"], ["r"]), made, node("Reshape", ["n", "back"], ["y"])]
    shapes = {"to": np.int64([1, 2 * C, 4, 5]), "back": np.int64([2, C, 4, 5])}
    check(net(nodes, {"x": [2, C, 4, 5]}, ["y"], {**weights, **shapes}), "InstanceNormalization")


def test_between_reshapes_it_is_a_layer_norm_of_rows():
    """Keras 2 normalised rows with the fused BatchNormalization: a row is a channel of `[1, rows, H, 1]`."""
    rows, h = 2 * C, 8
    made, weights = training("r", "n", repeat=2, epsilon=1e-3)
    weights |= {"g": np.ones(rows, np.float32), "b": np.zeros(rows, np.float32)}
    weights |= {"gamma": RNG.uniform(0.5, 1.5, h).astype(np.float32), "beta": RNG.normal(size=h).astype(np.float32)}
    nodes = [
        node("Reshape", ["x", "to"], ["r"]), made, node("Reshape", ["n", "back"], ["q"]),
        node("Mul", ["q", "gamma"], ["t"]), node("Add", ["t", "beta"], ["y"]),
    ]  # fmt: skip
    shapes = {"to": np.int64([1, rows, h, 1]), "back": np.int64([2, C, h])}
    check(net(nodes, {"x": [2, C, h]}, ["y"], {**weights, **shapes}), "LayerNormalization")


@pytest.mark.parametrize("dims", [["n", C, 4, 5], [2, C, 4, 5], [1, C]])
def test_over_several_samples_it_is_none(dims):
    made, weights = training()
    for target in Target:
        result, plan = stable(net([made], {"x": dims}, ["y"], weights), target)
        assert not plan.norms
        assert [decision.code for decision in plan.decisions] == ["NF101.training-mode"]
        assert operators(result) == {"BatchNormalization": 1}


@pytest.mark.parametrize("read", ["new_rm", "new_rv"])
def test_it_stays_where_somebody_reads_its_running_statistics(read):
    made, weights = training()
    model = net([made, node("Neg", [read], ["z"])], {"x": [1, C, 4, 5]}, ["y", "z"], weights)
    for target in Target:
        assert not stable(model, target)[1].norms


def test_before_opset_14_there_is_no_such_attribute():
    made, weights = training()
    del made.output[1:]
    assert not stable(net([made], {"x": [1, C, 4, 5]}, ["y"], weights, opset=13))[1].norms
