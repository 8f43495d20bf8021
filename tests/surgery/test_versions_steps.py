"""Every rule for a step: the model before and after, executed, must give the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from normfold.surgery.versions.table import TABLE
from tests.support import Runner, batch_norm, build
from tests.surgery.raising import assert_same_bits, ops, raised, same, values

RUNTIME = 26  # the newest opset that onnxruntime 1.24 and newer load

X = "float[2,3,5,4] x"
REDUCTIONS = sorted(op_type for op_type, version in TABLE if op_type.startswith("Reduce") and version in (13, 18))


def feed(model: ModelProto, seed: int = 0, **given: Any) -> dict[str, np.ndarray]:
    """Values for all inputs, dynamic dimensions of 2."""
    made = {}
    for index, info in enumerate(model.graph.input):
        kind = info.type.tensor_type
        shape = [dim.dim_value or 2 for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        made[info.name] = values(*shape, seed=seed + 100 * index, dtype=dtype)
    return {**made, **{name: np.asarray(value) for name, value in given.items()}}


def holds(model: ModelProto, wanted: int, *, valid: bool = True, units: int = 0, **given: Any) -> ModelProto:
    return same(model, wanted, feed(model, 1, **given), feed(model, 2, **given), valid=valid, units=units)


# Operator in text, opset, opset wanted, operators after; all on `x`.
UNARY = [
    *((f"{op}(x)", 9, 18, [op]) for op in REDUCTIONS),
    *((f"{op}<axes=[1, 3]>(x)", 7, 21, [op]) for op in REDUCTIONS),
    *((f"{op}<axes=[-1], keepdims=0>(x)", 11, 22, [op]) for op in REDUCTIONS),
    ("Unsqueeze<axes=[0, 3]>(x)", 9, 13, ["Unsqueeze"]),
    ("Unsqueeze<axes=[-1]>(x)", 11, 21, ["Unsqueeze"]),
    ("Slice<starts=[1, 0], ends=[9223372036854775807, -1], axes=[2, 3]>(x)", 9, 13, ["Slice"]),
    ("Slice<starts=[0, 1], ends=[1, 3]>(x)", 7, 21, ["Slice"]),
    ("Pad<pads=[0,0,1,2,0,1,0,0]>(x)", 9, 11, ["Pad"]),
    ("Pad<pads=[0,0,1,2,0,1,0,0], value=1.5>(x)", 9, 21, ["Pad"]),
    ("Pad<pads=[0,0,1,2,0,0,2,1], mode=\"reflect\", value=3.0>(x)", 7, 18, ["Pad"]),
    ("Pad<pads=[0,0,1,2,0,0,2,1], mode=\"edge\">(x)", 7, 19, ["Pad"]),
    ("Pad<pads=[0,0,-1,2,0,0,2,-1], value=-0.0>(x)", 7, 21, ["Pad"]),
    ("Clip<min=-0.5, max=0.25>(x)", 7, 13, ["Clip"]),
    ("Clip<min=0.0>(x)", 9, 11, ["Clip"]),
    ("Clip<max=6.0>(x)", 9, 21, ["Clip"]),
    ("Clip(x)", 9, 21, ["Clip"]),
    ("Clip<min=-3.4028234663852886e+38, max=1.0>(x)", 9, 13, ["Clip"]),
    ("Dropout<ratio=0.25>(x)", 7, 10, ["Dropout"]),
    ("Dropout<ratio=0.25>(x)", 10, 13, ["Dropout"]),
    ("Dropout(x)", 7, 22, ["Dropout"]),
    ("Upsample<scales=[1.0,1.0,2.0,3.0]>(x)", 7, 9, ["Upsample"]),
    *(
        (f"Upsample<mode=\"{mode}\", scales=[1.0,1.0,{high},{wide}]>(x)", 7, wanted, ["Resize"])
        for mode in ("nearest", "linear")
        for high, wide in (("2.0", "2.0"), ("1.5", "2.3"), ("1.0", "1.7"))
        for wanted in (10, 11, 13, 18, 21)
    ),
    *((f"{op}(x)", 9, 13, ["Shape", "Flatten", op, "Reshape"]) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *((f"{op}<axis=3>(x)", 9, 21, [op]) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *((f"{op}<axis=-1>(x)", 11, 21, [op]) for op in ("Softmax", "LogSoftmax", "Hardmax")),
    *((f"{op}<axis=-2>(x)", 11, 17, ["Shape", "Flatten", op, "Reshape"]) for op in ("Softmax", "LogSoftmax")),
    *((f"{op}<axis=0>(x)", 11, 17, ["Shape", "Flatten", op, "Reshape"]) for op in ("Softmax", "Hardmax")),
    # nothing to do, but a schema of its own
    ("MaxPool<kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1>(x)", 10, 22, ["MaxPool"]),
    ("MaxPool<kernel_shape=[1, 1], strides=[2, 3], ceil_mode=1>(x)", 10, 22, ["MaxPool"]),
    ("LpPool<kernel_shape=[2, 2], strides=[2, 2], p=3>(x)", 7, 22, ["LpPool"]),
    ("DepthToSpace<blocksize=1>(x)", 7, 21, ["DepthToSpace"]),
    ("Flatten<axis=2>(x)", 9, 21, ["Flatten"]),
    ("Transpose<perm=[3,1,0,2]>(x)", 7, 25, ["Transpose"]),
    ("LRN<size=3>(x)", 7, 21, ["LRN"]),
    ("Selu(x)", 7, 22, ["Selu"]),
    ("Cast<to=7>(x)", 9, 23, ["Cast"]),
    ("Shape(x)", 7, 21, ["Shape"]),
    ("GlobalAveragePool(x)", 7, 22, ["GlobalAveragePool"]),
    ("Sum(x, x)", 7, 21, ["Sum"]),
    ("Mean(x, x, x)", 7, 21, ["Mean"]),
    ("ArgMax<axis=2>(x)", 7, 13, ["ArgMax"]),
    ("Elu<alpha=0.5>(x)", 7, 22, ["Elu"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "opset", "wanted", "after"), UNARY)
def test_operators_of_one_input(text: str, opset: int, wanted: int, after: list[str]) -> None:
    body = f"y = {text}"
    if text.startswith(("ReduceLogSum(", "ReduceLogSum<")):
        body = f"p = Abs(x) y = {text.replace('(x', '(p')}"
    model = build(body, X, opset=opset)
    result = holds(model, wanted)
    assert [op for op in ops(result) if op != "Abs"] == after


@pytest.mark.parametrize("attributes", ["ceil_mode=1", "count_include_pad=1, pads=[1,1,0,0]"])
@pytest.mark.parametrize(("wanted", "units"), [(11, 0), (18, 0), (19, 2), (22, 2)])
def test_average_pool(attributes: str, wanted: int, units: int) -> None:
    """onnxruntime has another kernel since opset 19, which adds up in another order."""
    model = build(f"y = AveragePool<kernel_shape=[3, 3], strides=[2, 2], {attributes}>(x)", X, opset=10)
    holds(model, wanted, units=units)


@pytest.mark.parametrize("wanted", [13, 18, 21])
def test_softmax_keeps_a_shape_that_is_not_known(wanted: int) -> None:
    text = """<ir_version: 8, opset_import: ["": 9]> g (float[N] x, int64[R] s) => (float[M] y) {
        a = Reshape(x, s) b = Softmax<axis=1>(a) y = Reshape(b, f)
    }"""
    model = parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "f"))
    for shape in ((4, 6), (2, 3, 4), (2, 2, 3, 2)):
        result = same(model, wanted, {"x": values(24), "s": np.array(shape)})
        assert ops(result) == ["Reshape", "Shape", "Flatten", "Softmax", "Reshape", "Reshape"]


@pytest.mark.parametrize(
    ("dims", "axis", "single"), [("2,7,1,1", 1, 1), ("2,1,5", 1, 2), ("3,1,1", 1, 2), ("N,5", 1, 1), ("1,4", 0, 1)]
)
def test_softmax_over_one_axis_that_is_longer_than_1(dims: str, axis: int, single: int) -> None:
    model = build(f"y = Softmax<axis={axis}>(x)", f"float[{dims}] x", opset=11)
    result = holds(model, 17)
    assert ops(result) == ["Softmax"]
    assert result.graph.node[0].attribute[0].i == single


@pytest.mark.parametrize("axes", ["<axes=[0, 2]>", ""])
@pytest.mark.parametrize("wanted", [13, 21])
def test_squeeze(axes: str, wanted: int) -> None:
    model = build(f"y = Squeeze{axes}(x)", "float[1,3,1,2] x", opset=9)
    result = holds(model, wanted)
    assert len(result.graph.initializer) == bool(axes)


@pytest.mark.parametrize(("opset", "wanted"), [(7, 11), (7, 13), (11, 18), (13, 18), (7, 21)])
@pytest.mark.parametrize("sizes", ["", ", split=[1, 3, 2]"])
def test_split(opset: int, wanted: int, sizes: str) -> None:
    if sizes and opset == 13:
        model = build(
            "a, b, c = Split<axis=1>(x, s)", "float[2,6] x", "a, b, c", {"s": np.array([1, 3, 2])}, opset=opset
        )
    else:
        model = build(f"a, b, c = Split<axis=1{sizes}>(x)", "float[2,6] x", "a, b, c", opset=opset)
    node = holds(model, wanted).graph.node[0]
    counts = [a.i for a in node.attribute if a.name == "num_outputs"]
    assert counts == ([3] if wanted >= 18 and not sizes else [])


@pytest.mark.parametrize("wanted", [10, 11, 21])
def test_top_k(wanted: int) -> None:
    model = build("v, i = TopK<k=3, axis=1>(x)", "float[4,6] x", "float[4,3] v, int64[4,3] i", opset=7)
    holds(model, wanted)


@pytest.mark.parametrize(("opset", "wanted"), [(7, 9), (7, 14), (9, 15), (14, 17), (7, 21)])
def test_batch_normalization(opset: int, wanted: int) -> None:
    spatial = "<spatial=1, epsilon=0.01>" if opset == 7 else "<epsilon=0.01>"
    model = build(f"y = BatchNormalization{spatial}(x, g, b, m, v)", X, init=batch_norm(3), opset=opset)
    holds(model, wanted)


def test_batch_normalization_of_a_matrix_has_no_activations() -> None:
    model = build("y = BatchNormalization<spatial=0>(x, g, b, m, v)", "float[4,3] x", init=batch_norm(3), opset=7)
    result = raised(model, 17)
    assert not [a for a in result.graph.node[0].attribute if a.name == "spatial"]
    same(model, 17)


@pytest.mark.parametrize("kind", ["float", "float16", "double"])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_normalization(kind: str, constant: bool, groups: int) -> None:
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    rng = np.random.default_rng(groups)
    parts = {"s": rng.uniform(0.5, 2, groups).astype(dtype), "b": rng.normal(size=groups).astype(dtype)}
    inputs = f"{kind}[N,6,4,3] x" + ("" if constant else f", {kind}[{groups}] s, {kind}[{groups}] b")
    body = f"y = GroupNormalization<num_groups={groups}, epsilon=0.01>(x, s, b)"
    model = build(body, inputs, f"{kind}[N,6,4,3] y", parts if constant else {}, opset=18)
    given = {} if constant else parts
    data = rng.standard_normal((2, 6, 4, 3)).astype(dtype)
    # onnx calls the first version deprecated; onnxruntime computes float16 in float32 and skips some of the casts.
    result = same(model, 21, {"x": data, **given}, valid=False, reference=kind == "float16")
    names = [a.name for a in result.graph.node[-1].attribute]
    assert ("stash_type" in names) == (kind != "float")
    assert len(ops(result)) == (1 if constant or groups == 6 else 7)


@pytest.mark.parametrize("attributes", ["", "<axis=1, epsilon=0.1>"])
def test_layer_normalization_before_it_was_a_standard(attributes: str) -> None:
    shape = (3, 5, 4) if attributes else (4,)
    init = {"s": values(*shape, seed=3), "b": values(*shape, seed=4)}
    model = build(f"y = LayerNormalization{attributes}(x, s, b)", X, "float[2,3,5,4] y", init, opset=11)
    same(model, 17, feed(model), valid=False)


def test_simplified_layer_normalization_is_the_runtime_s_own() -> None:
    body = "y = SimplifiedLayerNormalization<axis=-1, epsilon=0.01, stash_type=1>(x, s)"
    model = build(body, X, "float[2,3,5,4] y", {"s": values(4, seed=3)}, opset=13)
    before, after = (Runner(item).run(feed(model)) for item in (model, raised(model, 21)))
    assert_same_bits(before[0], after[0], "y")


SCALES = [([1, 1, 2, 3], "floor"), ([1, 1, 1.5, 1.7], "floor"), ([1, 1, 0.6, 0.5], "ceil"), ([1, 1, 1, 0.3], "ceil")]


@pytest.mark.parametrize("wanted", [11, 13, 18, 19, 21])
@pytest.mark.parametrize(("scales", "nearest"), SCALES)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_10(mode: str, scales: list[float], nearest: str, wanted: int) -> None:
    init = {"s": np.array(scales, np.float32)}
    model = build(f'y = Resize<mode="{mode}">(x, s)', "float[2,3,7,9] x", init=init, opset=10)
    result = holds(model, wanted)
    names = {a.name: helper.get_attribute_value(a) for a in result.graph.node[-1].attribute}
    assert names["coordinate_transformation_mode"] == b"asymmetric"
    assert names.get("nearest_mode") == (nearest.encode() if mode == "nearest" else None)


def test_upsample_with_scales_that_are_computed() -> None:
    body = 's = Identity(k) y = Upsample<mode="nearest">(x, s)'
    model = build(body, f"{X}, float[4] k", "float[2,3,H,W] y", opset=9)
    holds(model, 18, k=np.array([1, 1, 2, 1.5], np.float32))


MODES_11 = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("wanted", [13, 18, 21])
@pytest.mark.parametrize("coordinates", MODES_11)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_11(mode: str, coordinates: str, wanted: int) -> None:
    init = {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 1.7, 0.6], np.float32)}
    attributes = f'mode="{mode}", coordinate_transformation_mode="{coordinates}"'
    holds(build(f"y = Resize<{attributes}>(x, r, s)", "float[2,3,7,9] x", init=init, opset=11), wanted)
    init = {"r": np.zeros(0, np.float32), "e": np.zeros(0, np.float32), "z": np.array([2, 3, 4, 12])}
    sized = build(f"y = Resize<{attributes}>(x, r, e, z)", "float[2,3,7,9] x", "float[2,3,4,12] y", init, opset=11)
    result = holds(sized, wanted)
    assert list(result.graph.node[0].input) == ["x", "r", "", "z"]


def test_resize_crops() -> None:
    roi = np.array([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.7], np.float32)
    init = {"r": roi, "e": np.zeros(0, np.float32), "z": np.array([2, 3, 4, 12])}
    attributes = 'mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=2.0'
    model = build(f"y = Resize<{attributes}>(x, r, e, z)", "float[2,3,7,9] x", "float[2,3,4,12] y", init, opset=11)
    assert holds(model, 19).graph.node[0].input[1] == "r"


@pytest.mark.parametrize("mode", ["", 'mode="bilinear"', 'mode="bicubic"', 'mode="nearest"'])
@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("wanted", [20, 22])
def test_grid_sample(mode: str, align: int, wanted: int) -> None:
    attributes = ", ".join(item for item in (mode, f"align_corners={align}", 'padding_mode="reflection"') if item)
    model = build(f"y = GridSample<{attributes}>(x, g)", f"{X}, float[2,6,7,2] g", opset=16)
    holds(model, wanted, g=np.random.default_rng(0).uniform(-1.3, 1.3, (2, 6, 7, 2)).astype(np.float32))


def test_roi_align() -> None:
    body = "y = RoiAlign<output_height=3, output_width=2, sampling_ratio=2, spatial_scale=0.5>(x, r, i)"
    given = {"r": np.array([[0, 0, 6, 8], [1, 2, 7, 5], [3, 1, 4, 9]], np.float32), "i": np.array([0, 1, 1])}
    model = build(body, f"{X}, float[3,4] r, int64[3] i", opset=10)
    result = holds(model, 16, **given)
    assert b"output_half_pixel" in [a.s for a in result.graph.node[0].attribute]
    holds(result, 22, **given)  # the reference evaluator has no RoiAlign of opset 10


@pytest.mark.parametrize("axis", ["", "axis=1", "axis=2"])
@pytest.mark.parametrize("wanted", [20, 22])
def test_dft(axis: str, wanted: int) -> None:
    model = build(f"y = DFT<{axis}>(x)" if axis else "y = DFT(x)", "float[2,6,4,1] x", "float[2,6,4,2] y", opset=17)
    holds(model, wanted)


@pytest.mark.parametrize("wanted", [11, 13, 18])
def test_scatter(wanted: int) -> None:
    model = build("y = Scatter<axis=1>(x, i, u)", "float[2,5] x, int64[2,2] i, float[2,2] u", opset=9)
    assert ops(holds(model, wanted, i=np.array([[0, 3], [4, 1]]))) == ["ScatterElements"]


def test_one_hot_of_positions() -> None:
    body = "i = ArgMax<axis=1, keepdims=0>(x) y = OneHot(i, d, v)"
    init = {"d": np.array(5), "v": np.array([0, 1], np.float32)}
    holds(build(body, "float[3,5] x", "float[3,5] y", init, opset=9), 21)
    init["i"] = np.array([0, 4, 7])
    holds(build("y = OneHot(i, d, v)", "float[3] x", "float[3,5] y", init, opset=9), 13)
    body = "k, i = TopK<k=1, axis=1>(x) y = OneHot(i, d, v)"
    holds(build(body, "float[3,5] x", "float[3,1,5] y", {"d": np.array(5), "v": init["v"]}, opset=9), 13)


@pytest.mark.parametrize(("opset", "wanted"), [(10, 13), (10, 19), (13, 21), (10, 23)])
def test_quantize_and_dequantize(opset: int, wanted: int) -> None:
    init = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    model = build("q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)", X, init=init, opset=opset)
    holds(model, wanted)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_transposed_convolution_with_even_padding(auto_pad: str) -> None:
    body = f'y = ConvTranspose<strides=[2, 2], auto_pad="{auto_pad}">(x, w)'
    holds(build(body, X, "float[2,4,10,8] y", {"w": values(3, 4, 4, 4)}, opset=9), 22)
    sized = "y = ConvTranspose<strides=[2, 2], output_shape=[9, 7], kernel_shape=[3, 3]>(x, w)"
    holds(build(sized, X, "float[2,4,9,7] y", {"w": values(3, 4, 3, 3)}, opset=9), 11)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent(op: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    init = {"w": values(1, gates * 4, 3), "r": values(1, gates * 4, 4)}
    model = build(f"y = {op}<hidden_size=4>(x, w, r)", "float[5,2,3] x", "float[5,1,2,4] y", init, opset=7)
    holds(model, 22)


@pytest.mark.parametrize("wanted", [11, 13, 21])
def test_half_precision(wanted: int) -> None:
    """Bounds and fillings are rounded to the type of the data, and a bound beyond it is none."""
    model = build("y = Clip<min=-0.1, max=0.3>(x)", "float16[2,3] x", "float16[2,3] y", opset=9)
    result = raised(model, wanted)
    bounds = [numpy_helper.to_array(t) for t in result.graph.initializer]
    assert [b.dtype for b in bounds] == [np.float16, np.float16]
    np.testing.assert_array_equal(bounds, np.array([-0.1, 0.3], np.float16))
    onnx.checker.check_model(result, full_check=True)
    open_ended = raised(build("y = Clip<min=0.0>(x)", "float16[2,3] x", "float16[2,3] y", opset=9), wanted)
    assert [float(numpy_helper.to_array(t)) for t in open_ended.graph.initializer] == [0, np.inf]
    double = raised(build("y = Clip<min=0.0>(x)", "double[2,3] x", "double[2,3] y", opset=9), wanted)
    assert float(numpy_helper.to_array(double.graph.initializer[1])) == float(np.finfo(np.float32).max)
    padded = raised(build("y = Pad<pads=[0,1,0,0], value=0.1>(x)", "float16[2,3] x", "float16[2,4] y", opset=9), wanted)
    filling = numpy_helper.to_array(padded.graph.initializer[1])
    assert filling.dtype == np.float16
    assert filling == np.float16(0.1)


def test_a_mask_that_nobody_reads_goes_when_its_type_changes() -> None:
    model = build("y, m = Dropout<ratio=0.5>(x)", X, "float[2,3,5,4] y", opset=7)
    result = holds(model, 13)
    assert list(result.graph.node[0].output) == ["y"]


def test_names_and_documentation_stay() -> None:
    model = build("y = ReduceMean<axes=[1], keepdims=0>(x)", X, opset=13)
    model.graph.node[0].name, model.graph.node[0].doc_string = "mean", "why"
    model.graph.node[0].domain = "ai.onnx"
    node = raised(model, 18).graph.node[0]
    assert (node.name, node.doc_string, node.domain) == ("mean", "why", "ai.onnx")
    assert list(node.input) == ["x", "mean.axes"]
    assert [a.name for a in node.attribute] == ["keepdims"]


def test_new_names_are_free() -> None:
    body = "a = ReduceMean<axes=[1]>(x) b = ReduceMean<axes=[2]>(a) y = Add(b, w)"
    model = build(body, X, init={"w": values(4)}, opset=13)
    model.graph.node[2].input[1] = model.graph.initializer[0].name = "a.axes"
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "a"
    result = holds(model, 18)
    assert [t.name for t in result.graph.initializer] == ["a.axes", "a.axes_1", "b.axes"]


def test_what_need_not_change_does_not() -> None:
    body = "c = Conv(x, w) r = Relu(c) p = MaxPool<kernel_shape=[2, 2]>(r) y = Reshape(p, s)"
    init = {"w": values(4, 3, 3, 3), "s": np.array([0, -1])}
    model = build(body, X, "float[2,8] y", init, opset=7)
    wanted = ModelProto()
    wanted.CopyFrom(model)
    wanted.opset_import[0].version = 21
    assert holds(model, 21) == wanted
    assert raised(model, 7) == raised(model, 5) == model


def test_chains_of_steps() -> None:
    """7 -> 22 in one go: every node takes all its steps, in order."""
    body = (
        'u = Upsample<mode="linear", scales=[1.0,1.0,2.0,2.0]>(x) p = Pad<pads=[0,0,1,1,0,0,1,1], value=0.5>(u) '
        "c = Clip<min=-1.0, max=1.0>(p) d = Dropout<ratio=0.1>(c) m = ReduceMean<axes=[2, 3]>(d) "
        "q = Squeeze<axes=[2, 3]>(m) s = Softmax(q) e = Unsqueeze<axes=[2]>(s) a, b, f = Split<axis=1>(e) "
        "g = Sum(a, b) h = Slice<starts=[0], ends=[1], axes=[0]>(g) k, i = TopK<k=1>(h) y = ReduceSum<axes=[1]>(k)"
    )
    model = build(body, X, opset=7)
    for wanted in (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, RUNTIME):
        holds(model, wanted)
    stepwise = model
    for wanted in range(8, 23):
        stepwise = holds(stepwise, wanted)
    at_once = raised(model, 22)
    assert ops(stepwise) == ops(at_once)


def test_bodies_of_control_flow() -> None:
    text = """<ir_version: 8, opset_import: ["": 11]> g (bool c, float[2,3,4] x, int64 n) => (float[2,1,4] y, float[2,3,4] z) {
        y = If(c) <
          then_branch = t () => (float[2,1,4] a) { a = ReduceSum<axes=[1]>(x) },
          else_branch = e () => (float[2,1,4] b) { f = Softmax(x) b = ReduceMax<axes=[1]>(f) }
        >
        k = Constant<value = bool {1}>()
        z = Loop(n, k, x) <
          body = l (int64 i, bool go, float[2,3,4] v) => (bool on, float[2,3,4] w) {
            on = Identity(go)
            u = Unsqueeze<axes=[0]>(v)
            q = Squeeze<axes=[0]>(u)
            w = Softmax<axis=2>(q)
          }
        >
    }"""
    model = parser.parse_model(text)
    for c in (True, False):
        given = {"c": np.array(c), "x": values(2, 3, 4), "n": np.array(3)}
        for wanted in (13, 18, 21):
            result = same(model, wanted, given)
    assert ops(result).count("Flatten") == 1
    then = next(a.g for a in result.graph.node[0].attribute if a.name == "then_branch")
    assert [tensor.name for tensor in then.initializer] == ["a.axes"]


def test_functions_are_raised_with_the_graph() -> None:
    text = """<ir_version: 8, opset_import: ["": 11, "loc": 1]> g (float[2,3,4] x) => (float[2,3] y, float[2,3,4] z) {
        y = loc.f<k=0>(x)
        z = Softmax<axis=2>(x)
    }
    <domain: "loc", opset_import: ["": 11]> f<k> (a) => (b) {
        s = Softmax<axis=1>(a) b = ReduceSum<axes=[-1], keepdims: int = @k>(s)
    }
    """
    model = parser.parse_model(text)
    result = same(model, 21, {"x": values(2, 3, 4)})
    assert [entry.version for entry in result.functions[0].opset_import] == [21]
    assert "Flatten" in ops(result)


def test_other_domains_stay() -> None:
    nodes = [
        helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft"),
        helper.make_node("ReduceMean", ["h"], ["y"], axes=[1]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in (("x", [2, 3]), ("y", [2, 1])))
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=imports, ir_version=8)
    result = same(model, 18, {"x": values(2, 3)})
    assert result.graph.node[0] == model.graph.node[0]
