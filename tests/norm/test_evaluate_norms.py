"""Norms that are one operator: against the reference implementation in float64, and onnxruntime where it has none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normfold.norm.evaluate import Unknown
from tests.model.build import node
from tests.norm.evaluating import MICROSOFT, agree, evaluated, model_of, referenced, same, same_as_runtime

RNG = np.random.default_rng(0)
SHAPES = st.lists(st.integers(2, 5), min_size=3, max_size=5)


def normal(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


@given(shape=SHAPES, data=st.data())
@settings(max_examples=25)
def test_layer_normalization(shape, data):
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    tail = shape[-1 if axis is None else axis :]
    weights = {"g": normal(*tail), "b": normal(*tail)}
    inputs = ["x", "g", *(["b"] if data.draw(st.booleans()) else [])]
    attributes = {"epsilon": 0.1} if data.draw(st.booleans()) else {}
    attributes |= {} if axis is None else {"axis": axis}
    nodes = [node("LayerNormalization", inputs, ["y", "m", "i"], **attributes)]
    same(nodes, {"x": normal(*shape)}, ["y", "m", "i"], weights, rtol=1e-5, atol=1e-5)


@given(shape=SHAPES, data=st.data())
@settings(max_examples=25)
def test_rms_normalization(shape, data):
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    weights = {"g": normal(*shape[-1 if axis is None else axis :])}
    attributes = {} if axis is None else {"axis": axis, "epsilon": 0.01}
    nodes = [node("RMSNormalization", ["x", "g"], ["y"], **attributes)]
    same(nodes, {"x": normal(*shape)}, weights=weights, opset=23, rtol=1e-5, atol=1e-5)


def test_simplified_layer_normalization():
    x, g = normal(2, 3, 8, dtype=np.float32), normal(8, dtype=np.float32)
    same_as_runtime(
        [node("SimplifiedLayerNormalization", ["x", "g"], ["y", "i"], epsilon=0.02)], {"x": x}, ["y"], {"g": g}
    )
    model = model_of([node("SimplifiedLayerNormalization", ["x", "g"], ["y", "i"])], {"x": x}, ["y", "i"], {"g": g})
    inverse = evaluated(model, {"x": x}, ["i"])[0]
    np.testing.assert_allclose(
        inverse, 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5), rtol=1e-7
    )


@pytest.mark.parametrize("epsilon", [None, 0.05])
@pytest.mark.parametrize(
    "inputs", [["x", "s", "g"], ["x", "s", "g", "b"], ["x", "s", "g", "b", "c"], ["x", "s", "g", "", "c"]]
)
def test_skip_layer_normalization(inputs, epsilon):
    weights = {name: normal(8, dtype=np.float32) for name in "gbc"}
    feeds = {"x": normal(2, 3, 8, dtype=np.float32), "s": normal(2, 3, 8, dtype=np.float32)}
    attributes = {} if epsilon is None else {"epsilon": epsilon}
    nodes = [node("SkipLayerNormalization", inputs, ["y", "", "", "t"], domain=MICROSOFT, **attributes)]
    same_as_runtime(nodes, feeds, ["y", "t"], weights, domains=(MICROSOFT,))


@pytest.mark.parametrize("inputs", [["x", "s", "g"], ["x", "s", "g", "c"]])
@pytest.mark.parametrize("skip", [(2, 3, 8), (3, 8), (1, 3, 8)])
def test_skip_simplified_layer_normalization(inputs, skip):
    weights = {name: normal(8, dtype=np.float32) for name in "gc"}
    feeds = {"x": normal(2, 3, 8, dtype=np.float32), "s": normal(*skip, dtype=np.float32)}
    nodes = [node("SkipSimplifiedLayerNormalization", inputs, ["y", "", "", "t"], domain=MICROSOFT, epsilon=0.01)]
    same_as_runtime(nodes, feeds, ["y", "t"], weights, domains=(MICROSOFT,))


def test_the_statistics_of_skip_operators():
    weights = {"g": np.ones(8)}
    feeds = {"x": normal(2, 3, 8), "s": normal(2, 3, 8)}
    total = feeds["x"] + feeds["s"]
    nodes = [node("SkipLayerNormalization", ["x", "s", "g"], ["y", "m", "i"], domain=MICROSOFT, epsilon=0.5)]
    model = model_of(nodes, feeds, ["y"], weights, domains=(MICROSOFT,))
    mean, inverse = evaluated(model, feeds, ["m", "i"])
    np.testing.assert_allclose(mean, total.mean(-1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(inverse, 1 / np.sqrt(total.var(-1, keepdims=True) + 0.5), rtol=1e-12)


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        ("SkipLayerNormalization", ["x", "s", "g", "b", "c"]),
        ("SkipSimplifiedLayerNormalization", ["x", "s", "g", "c"]),
    ],
)
def test_a_sum_that_is_given_takes_the_place_of_what_is_added(op, inputs):
    weights = {name: normal(8) for name in "gbc"}
    feeds = {"x": normal(2, 3, 8), "s": normal(2, 3, 8)}
    model = model_of(
        [node(op, inputs, ["y", "", "", "t"], domain=MICROSOFT)], feeds, ["y"], weights, domains=(MICROSOFT,)
    )
    total = feeds["x"] + feeds["s"] + weights["c"]
    agree(evaluated(model, feeds, ["y"], given={"t": total}), evaluated(model, feeds, ["y"]))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 2, 2)])
@pytest.mark.parametrize("opset", [6, 22])
def test_instance_normalization(shape, opset):
    weights = {"g": normal(shape[1]), "b": normal(shape[1])}
    nodes = [node("InstanceNormalization", ["x", "g", "b"], ["y"], epsilon=0.01)]
    same(nodes, {"x": normal(*shape)}, weights=weights, opset=opset, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 4), (2, 6, 4, 5), (3, 6)])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization(shape, groups, opset):
    size = groups if opset == 18 else 6
    weights = {"g": normal(size), "b": normal(size)}
    nodes = [node("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=groups, epsilon=0.01)]
    same(nodes, {"x": normal(*shape)}, weights=weights, opset=opset, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [0, 1, None])
@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("groups", [1, 3])
def test_contrib_group_norm(channels_last, activation, groups):
    """No CPU kernel runs it; it is GroupNormalization-21 between Transposes, and SiLU."""
    last = channels_last != 0
    x = normal(2, 4, 5, 6) if last else normal(2, 6, 4, 5)
    weights = {"g": normal(6), "b": normal(6)}
    attributes = {"groups": groups, "activation": activation, "epsilon": 0.01}
    attributes |= {} if channels_last is None else {"channels_last": channels_last}
    nodes = [node("GroupNorm", ["x", "g", "b"], ["y"], domain=MICROSOFT, **attributes)]
    mine = evaluated(model_of(nodes, {"x": x}, ["y"], weights, domains=(MICROSOFT,)), {"x": x}, ["y"])
    steps = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3]),
        node("GroupNormalization", ["t", "g", "b"], ["n"], num_groups=groups, epsilon=0.01),
        node("Sigmoid", ["n"], ["s"]),
        node("Mul", ["n", "s"], ["a"]),
        node("Transpose", ["a" if activation else "n"], ["y"], perm=[0, 2, 3, 1] if last else [0, 1, 2, 3]),
    ]
    agree(mine, referenced(model_of(steps, {"x": x}, ["y"], weights, 21), {"x": x}), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("skip", [(2, 4, 5, 6), (2, 1, 1, 6), (2, 6)])
@pytest.mark.parametrize("bias", [True, False])
def test_skip_group_norm(skip, bias):
    feeds = {"x": normal(2, 4, 5, 6), "s": normal(*skip)}
    weights = {"g": normal(6), "b": normal(6), "c": normal(6)}
    attributes = {"groups": 2, "activation": 1, "channels_last": 1, "domain": MICROSOFT}
    inputs = ["x", "g", "b", "s", *(["c"] if bias else [])]
    model = model_of(
        [node("SkipGroupNorm", inputs, ["y", "t"], **attributes)], feeds, ["y", "t"], weights, domains=(MICROSOFT,)
    )
    y, total = evaluated(model, feeds, ["y", "t"])
    wanted = (
        feeds["x"]
        + feeds["s"].reshape(2, *((4, 5) if len(skip) == 4 and skip[1] > 1 else (1, 1)), 6)
        + (weights["c"] if bias else 0)
    )
    agree([total], [wanted])
    plain = model_of(
        [node("GroupNorm", ["x", "g", "b"], ["y"], **attributes)], {"x": wanted}, ["y"], weights, domains=(MICROSOFT,)
    )
    agree([y], evaluated(plain, {"x": wanted}, ["y"]))
    agree(evaluated(model, feeds, ["y"], given={"t": wanted}), [y])


@pytest.mark.parametrize("axes", [None, [2, 3], [-1], [0, 1, 2, 3]])
@pytest.mark.parametrize("opset", [9, 13])
def test_mean_variance_normalization(axes, opset):
    x = normal(2, 3, 4, 5, dtype=np.float32)
    attributes = {} if axes is None else {"axes": axes}
    if axes in (None, [0, 1, 2, 3]):  # what the runtime's kernel takes
        kernel = {} if axes is None else {"axes": axes}
        same_as_runtime([node("MeanVarianceNormalization", ["x"], ["y"], **kernel)], {"x": x}, opset=opset)
    gone = tuple(axes or (0, 2, 3))
    model = model_of([node("MeanVarianceNormalization", ["x"], ["y"], **attributes)], {"x": x}, ["y"], opset=opset)
    wide = x.astype(np.float64)
    wanted = (wide - wide.mean(gone, keepdims=True)) / (wide.std(gone, keepdims=True) + 1e-9)
    agree(evaluated(model, {"x": x}, ["y"]), [wanted], rtol=1e-8)


BATCH = ("x", "g", "b", "m", "v")


def batch_weights():
    return {"g": normal(3), "b": normal(3), "m": normal(3), "v": RNG.uniform(0.5, 2, 3)}


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization_at_inference(shape, opset):
    """The reference mixes the statistics of the batch in before opset 14; hence the runtime."""
    nodes = [node("BatchNormalization", BATCH, ["y"], epsilon=0.01)]
    weights = {name: w.astype(np.float32) for name, w in batch_weights().items()}
    same_as_runtime(nodes, {"x": normal(*shape, dtype=np.float32)}, weights=weights, opset=opset)


def test_batch_normalization_with_computed_statistics():
    x = normal(2, 3, 4, 5)
    nodes = [
        node("ReduceMean", ["x"], ["m"], axes=[0, 2, 3], keepdims=0),
        node("ReduceSumSquare", ["x"], ["v"], axes=[0, 2, 3], keepdims=0),
        node("BatchNormalization", BATCH, ["y"]),
    ]
    weights = {name: w for name, w in batch_weights().items() if name in "gb"}
    same(nodes, {"x": x}, weights=weights, opset=15, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes"),
    [
        (15, ["y"], {"training_mode": 1}),
        (15, ["y", "p", "q"], {"training_mode": 1}),
        (9, ["y", "p", "q"], {}),
        (6, ["y"], {}),
    ],
)
def test_batch_normalization_with_the_statistics_of_the_batch(opset, outputs, attributes):
    x, weights = normal(2, 3, 4, 5), batch_weights()
    nodes = [node("BatchNormalization", BATCH, outputs, epsilon=0.01, **attributes)]
    model = model_of(nodes, {"x": x}, ["y"], weights, opset)
    axes, column = (0, 2, 3), (1, 3, 1, 1)
    wanted = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + np.float32(0.01))
    agree(evaluated(model, {"x": x}, ["y"]), [wanted * weights["g"].reshape(column) + weights["b"].reshape(column)])
    if len(outputs) > 1:
        with pytest.raises(Unknown, match="output 1"):
            evaluated(model, {"x": x}, ["p"])


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "opset", "x"),
    [
        ("LayerNormalization", ["x"], {}, 17, (2, 3, 4)),
        ("LayerNormalization", ["x", "wide"], {}, 17, (2, 3, 4)),
        ("LayerNormalization", ["x", "g"], {"axis": 3}, 17, (2, 3, 4)),
        ("LayerNormalization", ["x", "g"], {"mode": 1}, 17, (2, 3, 4)),
        ("InstanceNormalization", ["x", "g", "g"], {}, 17, (2, 4)),
        ("InstanceNormalization", ["x", "g", "g"], {}, 17, (2, 3, 4)),
        ("GroupNormalization", ["x", "g", "g"], {"num_groups": 3}, 21, (2, 4, 4)),
        ("GroupNormalization", ["x", "g", "g"], {}, 21, (2, 4, 4)),
        ("GroupNormalization", ["x", "g", "g"], {"num_groups": 2}, 17, (2, 4, 4)),
        ("MeanVarianceNormalization", ["x"], {"axes": [4]}, 13, (2, 3, 4)),
        ("MeanVarianceNormalization", ["x"], {}, 8, (2, 3, 4, 4)),
        ("BatchNormalization", ["x", "g", "g", "g", "g"], {"spatial": 0}, 7, (2, 4, 4)),
        ("LpNormalization", ["x"], {}, 17, (2, 3, 4)),
    ],
)
def test_what_does_not_fit_is_unknown(op, inputs, attributes, opset, x):
    weights = {"g": np.ones(4), "wide": np.ones((5, 1, 1, 1))}
    model = model_of([node(op, inputs, ["y"], **attributes)], {"x": normal(*x)}, ["y"], weights, opset)
    with pytest.raises(Unknown):
        evaluated(model, {"x": normal(*x)}, ["y"])


@pytest.mark.parametrize(
    "attributes", [{"groups": 2}, {"activation": 0}, {"groups": 2, "activation": 2}, {"groups": 4, "activation": 0}]
)
def test_contrib_group_norm_with_other_attributes_is_unknown(attributes):
    x, weights = normal(2, 4, 5, 6), {"g": normal(6), "b": normal(6)}
    nodes = [node("GroupNorm", ["x", "g", "b"], ["y"], domain=MICROSOFT, **attributes)]
    with pytest.raises(Unknown):
        evaluated(model_of(nodes, {"x": x}, ["y"], weights, domains=(MICROSOFT,)), {"x": x}, ["y"])
