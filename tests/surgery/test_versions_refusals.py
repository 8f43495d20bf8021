"""What has no exact form in a newer opset is refused, with the node and the reason; what just misses that is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, parser

from normfold.affine.reasons import Refused
from normfold.surgery.versions import engine
from normfold.surgery.versions.table import TABLE
from tests.support import batch_norm, build
from tests.surgery.raising import raised, same, values

X = "float[2,3,5,4] x"
BN = batch_norm(3)


def refused(model: ModelProto, wanted: int) -> str:
    """The message; the model must have been read without a complaint up to there."""
    with pytest.raises(Refused) as caught:
        raised(model, wanted)
    assert caught.value.key == "opset"
    assert "\n" not in caught.value.message
    return caught.value.message


def resize(scales: list[float] | None, mode: str = "nearest") -> ModelProto:
    init = {} if scales is None else {"s": np.array(scales, np.float32)}
    inputs = X if scales is not None else f"{X}, float[4] s"
    return build(f'y = Resize<mode="{mode}">(x, s)', inputs, "float[N,C,H,W] y", init, opset=10)


# Name, model, opset wanted, part of the message.
CASES = {
    "spatial": (
        build("y = BatchNormalization<spatial=0>(x, g, b, m, v)", X, "float[2,3,5,4] y", BN, opset=7),
        9,
        "spatial = 0",
    ),
    "training": (
        build("y, a, c, d, e = BatchNormalization(x, g, b, m, v)", X, "float[2,3,5,4] y", BN, opset=9),
        14,
        "statistics of the batch",
    ),
    "mask of 7": (build("y, m = Dropout(x)", X, "float[2,3,5,4] y, float[2,3,5,4] m", opset=7), 10, "mask is read"),
    "mask of 10": (
        build("y, m = Dropout(x) n = Not(m)", X, "float[2,3,5,4] y, bool[2,3,5,4] n", opset=10),
        12,
        "mask is read",
    ),
    "scales unknown": (resize(None), 11, "not constant"),
    "scales mixed": (resize([1, 1, 2, 0.5]), 11, "another shrinks"),
    "tf_half_pixel_for_nn": (
        build(
            'y = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn">(x, r, s)',
            X,
            "float[2,3,10,8] y",
            {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
            opset=11,
        ),
        13,
        "tf_half_pixel_for_nn",
    ),
    "indices": (
        build("y = OneHot(i, d, v)", "int64[3] i, int64 d, float[2] v", "float[3,N] y", opset=9),
        11,
        "may be negative",
    ),
    "constant indices": (
        build("y = OneHot(i, d, v)", "int64 d, float[2] v", "float[3,N] y", {"i": np.array([1, -1, 2])}, opset=9),
        11,
        "may be negative",
    ),
    "window in the padding": (
        build("y = MaxPool<kernel_shape=[2,2], strides=[3,3], pads=[0,0,1,1], ceil_mode=1>(x)", X, opset=12),
        22,
        "start in the padding",
    ),
    "window of unknown size": (
        build("y = AveragePool<kernel_shape=[1], strides=[2], pads=[0,1], ceil_mode=1>(x)", "float[1,2,N] x", opset=19),
        22,
        "cannot be proven",
    ),
    "odd padding": (
        build('y = ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, w)', X, init={"w": values(3, 4, 3, 3)}, opset=9),
        11,
        "odd",
    ),
    "negative padding": (
        build("y = ConvTranspose<output_shape=[9,8]>(x, w)", X, "float[2,4,9,8] y", {"w": values(3, 4, 3, 3)}, opset=9),
        11,
        "negative",
    ),
    "odd padding of a shape": (
        build(
            "y = ConvTranspose<output_shape=[6,5], kernel_shape=[3,3]>(x, w)",
            X,
            "float[2,4,6,5] y",
            {"w": values(3, 4, 3, 3)},
            opset=9,
        ),
        11,
        "odd",
    ),
    "padding of unknown size": (
        build(
            "y = ConvTranspose<output_shape=[7], kernel_shape=[3]>(x, w)",
            "float[1,3,N] x",
            "float[1,4,7] y",
            {"w": values(3, 4, 3)},
            opset=9,
        ),
        11,
        "odd",
    ),
    "integer erf": (build("y = Erf(x)", "int32[3] x", "int32[3] y", opset=9), 13, "not proven to be of a type"),
    "quantised integers": (
        build("y = QuantizeLinear(x, s)", "int32[3] x, float s", "uint8[3] y", opset=13),
        19,
        "type of its scale",
    ),
    "float8 without infinities": (
        build(f"y = Cast<to={TensorProto.FLOAT8E4M3FNUZ}>(x)", X, "float8e4m3fnuz[2,3,5,4] y", opset=19),
        24,
        "infinity",
    ),
    "float8 like another": (
        build("y = CastLike(x, k)", f"{X}, float8e5m2fnuz k", "float8e5m2fnuz[2,3,5,4] y", opset=19),
        24,
        "infinity",
    ),
    "groups of unknown channels": (
        build("y = GroupNormalization<num_groups=2>(x, s, s)", "float[N,C] x, float[2] s", "float[N,C] y", opset=18),
        21,
        "channels",
    ),
    "axis": (build("y = Softmax<axis=7>(x)", X, "float[2,3,5,4] y", opset=11), 13, "axis 7 does not exist"),
    "an attribute of a later version": (
        build("y = AveragePool<kernel_shape=[2,2], ceil_mode=1>(x)", X, "float[2,3,4,3] y", opset=7),
        10,
        "'ceil_mode'",
    ),
    "an input of a later version": (
        build("y = Squeeze(x, a)", "float[1,3] x", "float[3] y", {"a": np.array([0])}, opset=11),
        13,
        "more inputs",
    ),
    "a name that was free": (build("y = Gelu(x)", X, "float[2,3,5,4] y", opset=17), 20, "not known to be the same"),
    "an operator of nobody": (
        build("y = ImageScaler<scale=0.5>(x)", X, "float[2,3,5,4] y", opset=9),
        10,
        "no operator of the standard",
    ),
    "another layer norm": (
        build("y = LayerNormalization<centre=1>(x, s)", X, "float[2,3,5,4] y", {"s": values(4)}, opset=11),
        17,
        "'centre'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refusal(name: str) -> None:
    model, wanted, part = CASES[name]
    assert part in refused(model, wanted)


@pytest.mark.parametrize("name", CASES)
def test_below_the_step_nothing_is_refused(name: str) -> None:
    model, wanted, _ = CASES[name]
    version = max((v for op, v in _steps_of(model) if v <= wanted), default=0)
    if version - 1 > model.opset_import[0].version:
        raised(model, version - 1)


def _steps_of(model: ModelProto) -> set[tuple[str, int]]:
    return {(node.op_type, int(s.since_version)) for node in model.graph.node for s in _history(node.op_type)}


def _history(op_type: str) -> list[onnx.defs.OpSchema]:
    return [s for s in onnx.defs.get_all_schemas_with_history() if s.name == op_type and not s.domain]


def test_the_message_names_the_node() -> None:
    model = build("y = Erf(x)", "int32[3] x", "int32[3] y", opset=9)
    model.graph.node[0].name = "activation"
    with pytest.raises(Refused) as caught:
        raised(model, 21)
    assert "Erf 'activation' has no exact form in opset 21" in caught.value.message
    assert caught.value.blocker == "activation"


def test_scan_over_batches() -> None:
    text = """<ir_version: 8, opset_import: ["": 8]> g (float[1,2] h, float[1,3,2] x) => (float[1,2] y, float[1,3,2] z) {
        y, z = Scan<num_scan_inputs=1, body = s (float[2] a, float[2] b) => (float[2] c, float[2] d) {
            c = Add(a, b) d = Identity(c)
        }>("", h, x)
    }"""
    assert "batches of sequences" in refused(parser.parse_model(text), 9)


def test_an_attribute_that_the_caller_gives() -> None:
    text = """<ir_version: 8, opset_import: ["": 13, "loc": 1]> g (float[2,3] x) => (float[2,1] y) { y = loc.f<k=[1]>(x) }
    <domain: "loc", opset_import: ["": 13]> f<k> (a) => (b) { b = ReduceMean<axes: ints = @k>(a) }"""
    assert "where the function is called" in refused(parser.parse_model(text), 18)
    kept = parser.parse_model(
        text.replace("ReduceMean<axes: ints = @k>", "ReduceMean<axes=[1]>").replace("<k=[1]>", "")
    )
    same(kept, 18, {"x": values(2, 3)})


def test_types_that_are_unknown_in_a_function() -> None:
    text = """<ir_version: 8, opset_import: ["": 9, "loc": 1]> g (float[2,3] x) => (float[2,3] y) { y = loc.f(x) }
    <domain: "loc", opset_import: ["": 9]> f (a) => (b) { b = Clip<min=0.0>(a) }"""
    assert "element type" in refused(parser.parse_model(text), 11)


def test_versions_outside_of_what_is_known() -> None:
    model = build("y = Relu(x)", X, opset=6)
    assert "from opset 7 on" in refused(model, 13)
    newest = onnx.defs.onnx_opset_version()
    assert f"up to {newest}" in refused(build("y = Relu(x)", X, opset=17), newest + 1)


@pytest.mark.parametrize("reviewed", [12, 13])
def test_a_step_that_nobody_has_read_is_refused(monkeypatch: pytest.MonkeyPatch, reviewed: int) -> None:
    """Relu 13 only widens types; but whoever wrote the table has to have seen it."""
    monkeypatch.setattr(engine, "REVIEWED", reviewed)
    model = build("y = Relu(x)", X, opset=9)
    if reviewed == 13:
        assert not raised(model, 13).graph.initializer
    else:
        assert "not known to be the same" in refused(model, 13)


def test_a_step_that_changes_the_signature_is_refused_without_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("y = ReduceMean<axes=[1]>(x)", X, opset=13)
    monkeypatch.setattr(engine, "TABLE", {key: rule for key, rule in TABLE.items() if key != ("ReduceMean", 18)})
    assert "not known to be the same" in refused(model, 18)
    assert raised(model, 17)


def test_the_whole_is_refused() -> None:
    body = "a = ReduceMean<axes=[1]>(x) b = Cast<to=6>(a) y = Erf(b)"
    model = build(body, X, "int32[2,1,5,4] y", opset=9)
    before = model.SerializeToString()
    refused(model, 21)
    assert model.SerializeToString() == before


# Just not refused.
NEAR = {
    "types that are proven": (build("a = Cast<to=1>(x) y = Erf(a)", "int32[3] x", "float[3] y", opset=9), 13),
    "windows inside": (
        build("y = MaxPool<kernel_shape=[2,2], strides=[3,3], pads=[0,0,1,1], ceil_mode=1>(x)", "float[1,1,7,10] x", opset=12),
        22,
    ),
    "windows that cannot start outside": (
        build("y = MaxPool<kernel_shape=[3], strides=[2], ceil_mode=1>(x)", "float[1,2,N] x", opset=12),
        22,
    ),
    "unsigned indices": (
        build("y = OneHot(i, d, v)", "uint8[3] i, int64 d, float[2] v", "float[3,N] y", opset=9),
        11,
    ),
    "linear scales need no nearest pixel": (resize(None, "linear"), 11),
    "integers quantised where types are free again": (
        build("y = QuantizeLinear(x, s)", "int32[3] x, float s", "uint8[3] y", opset=13),
        23,
    ),
    "float8 that does not saturate": (
        build(f"y = Cast<to={TensorProto.FLOAT8E4M3FNUZ}, saturate=0>(x)", X, "float8e4m3fnuz[2,3,5,4] y", opset=19),
        24,
    ),
    "an operator that onnxruntime has at every opset": (
        build("y = SimplifiedLayerNormalization<axis=-1>(x, s)", X, "float[2,3,5,4] y", {"s": values(4)}, opset=13),
        21,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR)
def test_near_misses(name: str) -> None:
    model, wanted = NEAR[name]
    assert raised(model, wanted).opset_import[0].version == wanted


def test_windows_that_reach_into_the_padding_and_do_not_start_there() -> None:
    for length in range(3, 12):
        for pads in ("0,0", "1,1", "0,1", "2,1"):
            body = f"y = MaxPool<kernel_shape=[3], strides=[3], pads=[{pads}], ceil_mode=1>(x)"
            model = build(body, f"float[1,1,{length}] x", "float[1,1,M] y", opset=12)
            begin, end = (int(p) for p in pads.split(","))
            starts = range(-begin, length + begin + end, 3)
            windows = -(-(length + begin + end - 3) // 3) + 1
            outside = starts[windows - 1] >= length
            if outside:
                assert "start in the padding" in refused(model, 22)
            else:
                same(model, 22, {"x": values(1, 1, length)})


def test_a_model_without_the_standard_domain_has_nothing_to_raise() -> None:
    model = helper.make_model(
        helper.make_graph([], "g", [], []), opset_imports=[helper.make_opsetid("com.microsoft", 1)], ir_version=8
    )
    assert raised(model, 21) == model
