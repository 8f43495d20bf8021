"""Operators without a kernel here: what replaces them means the same, wherever they stand, and nothing else is touched."""

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.verification import Status, VerifyOptions, emulate, verify_models
from normfold.verification.jobs import Job
from normfold.verification.kernels import CPU, Runtime
from normfold.verification.oracle import evaluate
from normfold.verification.providers import choose_runtime
from normfold.verification.runner import Worker

from .norm_builders import (
    BF16,
    F16,
    F32,
    F64,
    GROUPS,
    MS,
    C,
    Graph,
    group,
    instance,
    layer_op,
    parameters,
    save,
    skip_op,
)

CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def worker():
    with Worker() as one:
        yield one


def run(worker, model, **feeds):
    path = worker.folder / f"emulated{worker.count}.onnx"
    onnx.save(model, path)
    result = worker.run(Job(path, [feeds]))
    assert result.ok, result.message
    return result.outputs[0]


def by_hand(x, groups, gamma, beta, epsilon=1e-5):
    """GroupNorm of [N, C, ...] one group at a time."""
    x, y = x.astype(np.float64), np.empty(x.shape)
    size = x.shape[1] // groups
    for n in range(x.shape[0]):
        for g in range(groups):
            part = x[n, g * size : (g + 1) * size]
            y[n, g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + epsilon)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return y * gamma.reshape(shape) + beta.reshape(shape)


@pytest.mark.parametrize("elem", [F32, F16], ids=["f32", "f16"])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_contrib_group_norm(worker, elem, last, silu):
    one = emulate(group("contrib", elem=elem, last=last, silu=silu, wide=True))
    assert one.ops == {"com.microsoft.GroupNorm": 1}
    x = (np.random.default_rng(1).standard_normal((2, C, 3, 5)) + 3).astype(helper.tensor_dtype_to_np_dtype(elem))
    gamma, beta = (p.astype(x.dtype).astype(np.float64) for p in parameters(C))
    expected = by_hand(x, GROUPS, gamma, beta)
    expected = expected / (1 + np.exp(-expected)) if silu else expected
    found = run(worker, one.model, x=x)["y"]
    assert found.dtype == x.dtype
    assert np.abs(found - expected).max() <= (2e-3 if elem == F16 else 1e-6)


def test_emulation_is_accurate_where_one_pass_is_not(worker):
    x = (np.random.default_rng(1).standard_normal((1, C, 8, 8)) + 3000).astype(np.float32)
    expected = by_hand(x, GROUPS, *parameters(C))
    for kind in ("contrib", "GroupNormalization-21", "GroupNormalization-18"):
        found = run(worker, emulate(group(kind)).model, x=x)["y"]
        assert np.abs(found - expected).max() < 2e-6, kind
    one_pass = run(worker, group("GroupNormalization-21"), x=x)["y"]
    assert not np.abs(one_pass - expected).max() < 1e-2  # what the runtime's function body does, or NaN


SKIPS = {
    "full": (2, 3, 5, C),
    "per channel": (2, C),
    "broadcast": (2, 1, 1, C),
}


@pytest.mark.parametrize("kind", SKIPS)
def test_skip_group_norm(worker, kind):
    gamma, beta = parameters(C)
    bias = parameters(C, 4)[1]
    g = Graph()
    y, total = g.op(
        "SkipGroupNorm", "x", g.const(gamma), g.const(beta), "skip", g.const(bias), domain=MS, outputs=2, groups=GROUPS,
        activation=0, epsilon=1e-5,
    )  # fmt: skip
    one = g.model({"x": ["N", "H", "W", C], "skip": list(SKIPS[kind])}, y, total)
    rng = np.random.default_rng(2)
    x, skip = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 5, C), SKIPS[kind]))
    found = run(worker, emulate(one).model, x=x, skip=skip)
    wide = skip.reshape(2, 1, 1, C) if kind == "per channel" else skip
    added = x.astype(np.float64) + wide + bias.astype(np.float32)
    expected = np.moveaxis(by_hand(np.moveaxis(added, -1, 1), GROUPS, gamma, beta), 1, -1)
    assert np.abs(found["y1"] - added).max() < 1e-6
    assert np.abs(found["y"] - expected).max() < 1e-5


def test_channels_last_convolution(worker):
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((6, 3, 3, 4)), rng.standard_normal(6)
    g = Graph()
    y = g.op("NhwcConv", "x", g.const(w), g.const(b), domain=MS, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    one = emulate(g.model({"x": ["N", "H", "W", 4]}, y))
    assert one.ops == {"com.microsoft.NhwcConv": 1}
    plain = Graph()
    t = plain.op("Transpose", "x", perm=[0, 3, 1, 2])
    t = plain.op("Conv", t, plain.const(w.transpose(0, 3, 1, 2)), plain.const(b), pads=[1, 1, 1, 1])
    x = rng.standard_normal((2, 5, 7, 4)).astype(np.float32)
    expected = run(worker, plain.model({"x": ["N", "H", "W", 4]}, plain.op("Transpose", t, perm=[0, 2, 3, 1])), x=x)[
        "y"
    ]
    assert np.array_equal(run(worker, one.model, x=x)["y"], expected)


DOUBLE = {
    "instance": (instance("op", elem=F64), {"x": (2, 6, 4, 5)}, "InstanceNormalization"),
    "mvn": (instance("mvn", elem=F64), {"x": (2, 6, 4, 5)}, "MeanVarianceNormalization"),
    "skip": (skip_op(elem=F64), {"x": (2, 3, 24), "skip": (2, 3, 24)}, "com.microsoft.SkipLayerNormalization"),
    "skip rms": (
        skip_op(elem=F64, rms=True), {"x": (2, 3, 24), "skip": (2, 3, 24)}, "com.microsoft.SkipSimplifiedLayerNormalization",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DOUBLE)
def test_types_that_a_kernel_does_not_take(worker, kind):
    model, shapes, name = DOUBLE[kind]
    one = emulate(model)
    assert one.ops == {name: 1}
    rng = np.random.default_rng(0)
    feeds = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    (expected,) = evaluate(model, [feeds])
    found = run(worker, one.model, **feeds)
    for key, value in found.items():
        assert value.dtype == np.float64
        assert np.abs(value - expected[key]).max() < 1e-14


def test_what_has_a_kernel_is_left_alone():
    for model in (
        layer_op(),
        layer_op(elem=F16),
        layer_op(elem=F64),
        skip_op(),
        skip_op(elem=F16),
        instance("op", elem=F16),
    ):
        one = emulate(model)
        assert one.model is model
        assert not one.ops


def test_a_rank_that_a_kernel_does_not_take(worker):
    g = Graph()
    y = g.op("SkipLayerNormalization", "x", "skip", g.const(parameters(6)[0]), domain=MS, epsilon=1e-5)
    dims = [1, 2, 3, 6]
    one = g.model({"x": dims, "skip": dims}, y)
    feeds = {
        name: np.random.default_rng(i).standard_normal(dims).astype(np.float32) for i, name in enumerate(("x", "skip"))
    }
    assert emulate(one).ops == {"com.microsoft.SkipLayerNormalization": 1}
    wide = {name: value.astype(np.float64) for name, value in feeds.items()}
    assert np.abs(run(worker, emulate(one).model, **feeds)["y"] - evaluate(one, [wide])[0]["y"]).max() < 1e-6


def test_statistics_are_float32_outputs(worker):
    g = Graph()
    outputs = g.op(
        "SkipLayerNormalization", "x", "skip", g.const(parameters(6)[0], F16), domain=MS, outputs=4, epsilon=1e-5
    )  # fmt: skip
    g.elem = F16
    dims = [1, 2, 3, 6]
    one = g.model({"x": dims, "skip": dims}, *outputs, elems=[F16, F32, F32, F16])
    feeds = {
        name: np.random.default_rng(i).standard_normal(dims).astype(np.float16) for i, name in enumerate(("x", "skip"))
    }
    found = run(worker, emulate(one).model, **feeds)
    expected = evaluate(one, [{name: value.astype(np.float64) for name, value in feeds.items()}])[0]
    assert [found[name].dtype.name for name in ("y", "y1", "y2", "y3")] == ["float16", "float32", "float32", "float16"]
    for name, value in found.items():
        assert np.abs(value - expected[name]).max() < 2e-3, name


def branches(opset=17):
    """GroupNorm in both branches of an If; one of them reads what the other graph made."""

    def side(name, silu):
        node = helper.make_node(
            "GroupNorm", ["h", "gamma", "beta"], [name], domain=MS, groups=GROUPS, activation=silu, channels_last=1
        )
        return helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, F32, None)])

    nodes = [
        helper.make_node("Identity", ["x"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=side("a", 1), else_branch=side("b", 0)),
    ]
    weights = [
        numpy_helper.from_array(p.astype(np.float32), n) for p, n in zip(parameters(C), ("gamma", "beta"), strict=True)
    ]
    inputs = [
        helper.make_tensor_value_info("x", F32, ["N", "H", "W", C]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", F32, None)], weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("opset", [14, 17, 20])
def test_subgraphs(worker, opset):
    one = emulate(branches(opset))
    assert one.ops == {"com.microsoft.GroupNorm": 2}
    x = np.random.default_rng(0).standard_normal((2, 3, 5, C)).astype(np.float32)
    plain = np.moveaxis(by_hand(np.moveaxis(x, -1, 1), GROUPS, *parameters(C)), 1, -1)
    for flag, expected in ((False, plain), (True, plain / (1 + np.exp(-plain)))):
        assert np.abs(run(worker, one.model, x=x, flag=np.array(flag))["y"] - expected).max() < 1e-5


def test_functions(worker):
    body = [helper.make_node("GroupNorm", ["a", "g", "b"], ["c"], domain=MS, groups=GROUPS, activation=0)]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    function = helper.make_function("local", "Norm", ["a", "g", "b"], ["c"], body, opsets)
    weights = [
        numpy_helper.from_array(p.astype(np.float32), n) for p, n in zip(parameters(C), ("gamma", "beta"), strict=True)
    ]
    calls = [helper.make_node("Norm", ["x", "gamma", "beta"], ["h"], domain="local")]
    calls.append(helper.make_node("Norm", ["h", "gamma", "beta"], ["y"], domain="local"))
    info = [helper.make_tensor_value_info(n, F32, ["N", "H", "W", C]) for n in "xy"]
    graph = helper.make_graph(calls, "g", info[:1], info[1:], weights)
    model = helper.make_model(
        graph, functions=[function], opset_imports=[*opsets, helper.make_opsetid("local", 1)], ir_version=8
    )
    before = model.SerializeToString(deterministic=True)
    one = emulate(model)
    assert one.ops == {"com.microsoft.GroupNorm": 2}
    assert model.SerializeToString(deterministic=True) == before
    x = np.random.default_rng(0).standard_normal((1, 3, 5, C)).astype(np.float32)
    once = by_hand(np.moveaxis(x, -1, 1), GROUPS, *parameters(C))
    expected = np.moveaxis(by_hand(once, GROUPS, *parameters(C)), 1, -1)
    assert np.abs(run(worker, one.model, x=x)["y"] - expected).max() < 1e-5


def test_payloads_of_external_data_are_not_read():
    """A model of any size: the tensors say that their data lie elsewhere, and nobody looks."""
    model = group("contrib")
    for tensor in model.graph.initializer:
        if tensor.data_type == F32:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="nowhere.data")
    assert emulate(model).ops == {"com.microsoft.GroupNorm": 1}


def test_external_data_stay_beside_the_file(tmp_path):
    before, after = group("contrib"), group("contrib", last=False)
    for one, name in ((before, "a"), (after, "b")):
        onnx.save(one, tmp_path / f"{name}.onnx", save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    verdict = verify_models(tmp_path / "a.onnx", tmp_path / "b.onnx", VerifyOptions())
    assert verdict.status is Status.PASS, verdict
    assert verdict.emulated_ops == {"com.microsoft.GroupNorm": 1}


def test_a_type_that_nothing_tells_is_refused_with_the_reason():
    """An unknown operator in front, at an opset without CastLike: nobody knows what to cast back to."""
    model = group("contrib", last=False)
    model.opset_import[0].version = 14
    model.graph.node.insert(0, helper.make_node("Odd", ["x"], ["h"], domain="ai.example"))
    model.graph.node[1].input[0] = "h"
    model.opset_import.append(helper.make_opsetid("ai.example", 1))
    one = emulate(model)
    assert not one.ops
    assert "element type of 'h' is unknown" in one.refused[0]
    model.opset_import[0].version = 15
    assert emulate(model).ops == {"com.microsoft.GroupNorm": 1}


def test_on_the_target_s_own_provider_everything_runs_as_it_is():
    cuda = Runtime((CUDA, CPU), CUDA, True)
    assert not emulate(group("contrib"), cuda).ops
    expanded = emulate(group("GroupNormalization-21"), cuda)
    assert (expanded.ops, expanded.expanded) == ({}, {"GroupNormalization": 1})
    absent = Runtime((CPU,), CUDA, False)
    assert emulate(group("contrib"), absent).ops == {"com.microsoft.GroupNorm": 1}


def test_providers_are_tried_not_believed(worker):
    assert worker.has(CPU)
    assert not worker.has("NoSuchExecutionProvider")
    assert choose_runtime(VerifyOptions(), worker) == Runtime((CPU,), "", False)
    assert choose_runtime(VerifyOptions(target="ort-cpu"), worker) == Runtime((CPU,), CPU, True)
    here = worker.has(CUDA)
    expected = Runtime((CUDA, CPU), CUDA, True) if here else Runtime((CPU,), CUDA, False)
    assert choose_runtime(VerifyOptions(target="ort-cuda"), worker) == expected
    assert worker.providers == expected.providers
    assert choose_runtime(VerifyOptions(target="ort-cuda", providers=(CPU,)), worker) == Runtime((CPU,), CUDA, False)


def test_bfloat_regions_have_no_kernels_and_are_widened_or_emulated():
    assert emulate(layer_op(elem=BF16)).ops == {"LayerNormalization": 1}


def test_a_copy_is_what_is_saved_not_the_model(tmp_path):
    paths = save(tmp_path, group("instance"), group("contrib"))
    before = [path.read_bytes() for path in paths]
    verify_models(*paths, VerifyOptions())
    assert [path.read_bytes() for path in paths] == before


def behind(operator: str, *, last: bool, spelling: str = "contrib") -> onnx.ModelProto:
    """A GroupNorm behind an operator of onnxruntime, at an opset without CastLike."""
    model = group(spelling, last=last)
    model.opset_import[0].version = 14
    model.graph.node.insert(0, helper.make_node(operator, ["x"], ["h"], domain="com.microsoft"))
    for node in model.graph.node[1:]:
        node.input[:] = ["h" if name == "x" else name for name in node.input]
    return model


@pytest.mark.parametrize("operator", ["Gelu", "QuickGelu"])
def test_a_type_behind_an_operator_of_onnxruntime_is_known(operator, tmp_path):
    """Inference by the standard ends there."""
    one = emulate(behind(operator, last=False))
    assert one.ops == {"com.microsoft.GroupNorm": 1}
    assert not one.refused
    pair = save(tmp_path, behind(operator, last=False, spelling="instance"), behind(operator, last=False))
    verdict = verify_models(*pair, VerifyOptions())
    assert verdict.status is Status.PASS, verdict
    assert verdict.emulated_ops == {"com.microsoft.GroupNorm": 1}


def test_a_candidate_that_cannot_be_emulated_is_not_called_wrong(tmp_path):
    """Trilu says nothing about types to anybody but onnxruntime, which has no GroupNorm here."""
    pair = save(tmp_path, behind("Trilu", last=False, spelling="instance"), behind("Trilu", last=False))
    verdict = verify_models(*pair, VerifyOptions())
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.reason.startswith("the candidate cannot run here: com.microsoft.GroupNorm")
    assert "element type of 'h' is unknown" in verdict.reason
