"""`normfold.optimize` and its companions, as a Python program sees them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import DTYPES, conv_bn, count, image, interface, listing, run, save
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

import normfold
from normfold import Config, InputError, NormfoldError, OutputError, UsageError

REGION = Config(verify="region")


def test_path_in_path_out(tmp_path: Path) -> None:
    model = conv_bn()
    source = save(model, tmp_path / "m.onnx")
    before = source.read_bytes()
    result = normfold.optimize(source, tmp_path / "out.onnx")
    assert result.changed
    assert result.written == tmp_path / "out.onnx"
    assert result.report.status == "optimized"
    assert result.report.verification is not None
    assert result.report.verification.verdict == "PASS"
    assert result.report.verification.level == "L3"
    assert source.read_bytes() == before
    written = onnx.load(str(tmp_path / "out.onnx"))
    assert count(written) == 0
    assert interface(written) == interface(model)
    onnx.checker.check_model(written, full_check=True)
    np.testing.assert_allclose(run(written, image())[0], run(model, image())[0], rtol=1e-4, atol=1e-5)
    assert sorted(listing(tmp_path)) == ["m.onnx", "out.normstats.npz", "out.onnx"]


def test_proto_in_proto_out() -> None:
    model = conv_bn()
    before = model.SerializeToString(deterministic=True)
    result = normfold.optimize(model)
    assert model.SerializeToString(deterministic=True) == before
    assert result.written is None
    assert isinstance(result.model, ModelProto)
    assert count(result.model) == 0
    assert result.model is not result.model, "each reading is the caller's own"
    assert result.report.input is not None
    assert result.report.input.path == "<ModelProto>"
    np.testing.assert_allclose(run(result.model, image())[0], run(model, image())[0], rtol=1e-4, atol=1e-5)


def test_path_and_proto_give_the_same_bytes(tmp_path: Path) -> None:
    model = conv_bn()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString(deterministic=True))
    normfold.optimize(tmp_path / "m.onnx", tmp_path / "out.onnx", config=REGION)
    normfold.optimize(model, tmp_path / "out2.onnx", config=REGION)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "out2.onnx").read_bytes()


def test_nothing_is_printed_and_nothing_is_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    with caplog.at_level(logging.INFO):
        normfold.optimize(source, tmp_path / "out.onnx")
        normfold.explain(source)
        normfold.inspect(source)
        normfold.verify(source, tmp_path / "out.onnx")
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.records) == ("", "", [])


def test_results_cannot_be_changed(tmp_path: Path) -> None:
    result = normfold.optimize(conv_bn(), config=REGION)
    with pytest.raises(AttributeError):
        result.written = tmp_path  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        result.report.status = "error"
    with pytest.raises(ValueError, match="frozen"):
        REGION.seed = 1


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"trials": 0}, "trials"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"verify": "some"}, "verify"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_setting_that_makes_no_sense(settings: dict[str, object], place: str) -> None:
    with pytest.raises(ValueError, match=place):
        Config(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "input.not_found"),
        (b"", "input.empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "input.wrong_format"),
        (b"<!DOCTYPE html><html></html>", "input.wrong_format"),
        (b"\x00\x01\x02\x03", "input.malformed"),
        (b"\x08\x08", "input.malformed"),
    ],
)
def test_what_is_no_model_is_a_typed_error(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    for verb in (normfold.optimize, normfold.explain, normfold.inspect):
        with pytest.raises(InputError) as caught:
            verb(path)
        assert caught.value.code == code
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value) or code == "input.malformed"


@pytest.mark.parametrize("keep", [1, 20, 200, 1000])
def test_a_truncated_model_is_a_typed_error(tmp_path: Path, keep: int) -> None:
    data = conv_bn().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data[:-keep])
    with pytest.raises(NormfoldError):
        normfold.optimize(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert sorted(listing(tmp_path)) == ["m.onnx"]


def test_an_unknown_code(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        normfold.optimize(conv_bn(), config=Config(skip=("NF999",)))
    assert caught.value.code == "usage.unknown_code"
    assert "NF101" in caught.value.hint


def test_the_output_may_not_be_the_input(tmp_path: Path) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    link, hard = tmp_path / "link.onnx", tmp_path / "hard.onnx"
    link.symlink_to(source)
    hard.hardlink_to(source)
    before = source.read_bytes()
    for path in (source, link, hard, tmp_path / "." / "m.onnx"):
        with pytest.raises(OutputError) as caught:
            normfold.optimize(source, path, config=REGION)
        assert caught.value.code == "output.is_input"
    assert source.read_bytes() == before


def test_in_place_goes_through_a_link(tmp_path: Path) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    link = tmp_path / "link.onnx"
    link.symlink_to(source)
    normfold.optimize(link, link, config=REGION, in_place=True)
    assert link.is_symlink()
    assert count(onnx.load(str(source))) == 0


def test_a_link_elsewhere_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(b"precious")
    (tmp_path / "out.onnx").symlink_to(other)
    with pytest.raises(OutputError) as caught:
        normfold.optimize(conv_bn(), tmp_path / "out.onnx", config=REGION)
    assert caught.value.code == "output.is_link"
    assert other.read_bytes() == b"precious"


@pytest.mark.parametrize(("name", "code"), [("", "output.is_directory"), ("no/such/out.onnx", "output.no_directory")])
def test_an_output_that_cannot_be(tmp_path: Path, name: str, code: str) -> None:
    with pytest.raises(OutputError) as caught:
        normfold.optimize(conv_bn(), tmp_path / name, config=REGION)
    assert caught.value.code == code
    assert listing(tmp_path) == {}


def test_a_rejected_model_may_not_be_kept_over_the_input(tmp_path: Path) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    with pytest.raises(OutputError) as caught:
        normfold.optimize(source, tmp_path / "out.onnx", keep_rejected=source)
    assert caught.value.code == "output.is_input"


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    first = normfold.optimize(source, tmp_path / "a.onnx", config=REGION)
    second = normfold.optimize(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert first.changed
    assert not second.changed
    assert second.report.status == "unchanged"
    assert second.report.verification is not None
    assert second.report.verification.verdict == "PASS"
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    for name in ("a.onnx", "b.onnx"):
        normfold.optimize(source, tmp_path / name, config=Config(verify="off"))
    normfold.optimize(source, tmp_path / "c.onnx", config=Config(seed=9, trials=1))
    a, b, c = (tmp_path / f"{name}.onnx" for name in "abc")
    assert a.read_bytes() == b.read_bytes()
    assert a.read_bytes() == c.read_bytes(), "how it was verified does not change what is written"


def test_metadata_says_what_was_done(tmp_path: Path) -> None:
    model = conv_bn()
    model.metadata_props.add(key="author", value="me")
    model.metadata_props.add(key="pkg.normfold.version", value="0.0.0")
    result = normfold.optimize(model, config=REGION)
    found = {entry.key: entry.value for entry in result.model.metadata_props}
    assert found["author"] == "me"
    assert found["pkg.normfold.version"] == normfold.__version__
    assert found["pkg.normfold.passes"] == "NF101:3"
    assert len(found["pkg.normfold.source_sha256"]) == 64
    assert not any(str(tmp_path) in value for value in found.values())
    plain = normfold.optimize(conv_bn(), config=Config(verify="region", metadata=False))
    assert not plain.model.metadata_props


def test_a_dry_run_stops_at_the_plan(tmp_path: Path) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    result = normfold.optimize(source, dry_run=True)
    assert result.report.status == "planned"
    assert [d.code for d in result.report.decisions] == ["NF101"] * 3
    assert result.report.verification is None
    assert result.report.output is None
    assert sorted(listing(tmp_path)) == ["m.onnx"]


@pytest.mark.parametrize(
    ("level", "verdict", "depth"), [("off", "OFF", "none"), ("region", "PASS", "L2"), ("full", "PASS", "L3")]
)
def test_levels_of_evidence(level: str, verdict: str, depth: str) -> None:
    result = normfold.optimize(conv_bn(), config=Config(verify=level))
    found = result.report.verification
    assert found is not None
    assert (found.verdict, found.level) == (verdict, depth)
    assert len(found.regions) == (0 if level == "off" else 3)
    assert [output.name for output in found.outputs] == (["y"] if level == "full" else [])
    assert bool(found.warnings) == (level != "region")


@pytest.mark.parametrize(
    ("settings", "folded"),
    [({"skip": ("NF101",)}, 0), ({"only": ("NF102",)}, 0), ({"only": ("NF101",)}, 3), ({"skip": ("NF102",)}, 3)],
)
def test_rules_can_be_left_out(settings: dict[str, tuple[str, ...]], folded: int) -> None:
    result = normfold.optimize(conv_bn(), config=Config(verify="off", **settings))  # type: ignore[arg-type]
    codes = [d.code for d in result.report.decisions]
    assert codes.count("NF101") == folded
    assert codes.count("NF101.user-keep") == 3 - folded
    assert count(result.model) == 3 - folded


@pytest.mark.parametrize("name", list(DTYPES))
def test_other_float_types(name: str) -> None:
    kind = DTYPES[name]
    model = conv_bn(kind=kind)
    result = normfold.optimize(model)
    assert count(result.model) == 0
    assert {item.data_type for item in result.model.graph.initializer} == {kind}
    found = result.report.verification
    assert found is not None
    # onnxruntime has no Conv of the other types on the CPU: the regions are computed in numpy, the whole not at all
    assert found.verdict == ("PASS" if name == "float16" else "INCONCLUSIVE")
    assert {region.status for region in found.regions} == {"PASS"}
    assert len(found.regions) == 3
    if name == "bfloat16":
        return
    feeds = image(kind=kind)
    evaluate = run if name == "float16" else lambda m, f: ReferenceEvaluator(m).run(None, f)
    old, new = (evaluate(m, feeds)[0].astype(np.float64) for m in (model, result.model))
    limit = 2e-2 if name == "float16" else 1e-12
    np.testing.assert_allclose(old, new, rtol=limit, atol=limit)


@pytest.mark.parametrize(
    ("listed", "policy", "folded", "code"),
    [
        (("*",), "auto", 3, "NF301"),
        (("*",), "keep", 0, "NF301.kept"),
        (("*",), "freeze", 3, "NF301"),
        (("bn1_m",), "auto", 2, "NF301.kept"),
        (("bn1_m",), "freeze", 3, "NF301"),
        (("w0",), "auto", 2, "NF301.kept"),
    ],
)
def test_initializers_that_are_inputs(listed: tuple[str, ...], policy: str, folded: int, code: str) -> None:
    model = conv_bn(listed=listed)
    result = normfold.optimize(model, config=Config(initializers=policy, verify="full"))
    assert count(result.model) == 3 - folded
    assert [d.code for d in result.report.decisions if d.code.startswith("NF301")] == [code]
    names = {item.name for item in result.model.graph.input}
    assert names == ({"x"} if code == "NF301" else {"x", *(n for n in (i.name for i in model.graph.input) if n != "x")})
    if code == "NF301.kept":  # what a caller overrides still counts
        override = {
            item.name: np.full(tuple(item.dims), 0.25, np.float32)
            for item in model.graph.initializer
            if item.name in names
        }
        old, new = (run(m, {**image(), **override})[0] for m in (model, result.model))
        np.testing.assert_allclose(old, new, rtol=1e-4, atol=1e-5)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    normfold.optimize(conv_bn(), config=Config(), progress=lambda *step: told.append(step))
    assert list(dict.fromkeys(step[0] for step in told)) == ["load", "write", "regions", "whole model"]
    assert all(0 <= done <= total for _, done, total in told)


@pytest.mark.parametrize(
    ("op", "referred", "shown"),
    [
        ("BatchNormalization", "epsilon: float = @e", {"epsilon": "@e"}),
        ("BatchNormalization", "training_mode: int = @e", {"training_mode": "@e"}),
        ("LayerNormalization", "axis: int = @e", {"axis": "@e", "epsilon": 1e-5}),
        ("InstanceNormalization", "epsilon: float = @e", {"epsilon": "@e"}),
    ],
)
def test_inspect_a_norm_whose_attribute_the_caller_gives(op: str, referred: str, shown: dict[str, object]) -> None:
    extra = {"BatchNormalization": "s, s, s, s", "LayerNormalization": "s", "InstanceNormalization": "s, s"}[op]
    value = "1" if "int" in referred else "0.1"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[2,3,4] x, float[3] s) => (float[2,3,4] y) {{ y = own.Norm <e = {value}> (x, s) }}
        <opset_import: ["" : 17], domain: "own">
        Norm <e> (x, s) => (y) {{ y = {op} <{referred}> (x, {extra}) }}
    """)
    (norm,) = normfold.inspect(model).norms
    assert norm.op_type == op
    assert shown.items() <= norm.parameters.items()
    assert not normfold.optimize(model, config=Config(verify="off")).changed


def test_explain_and_inspect() -> None:
    model = conv_bn()
    decisions = normfold.explain(model)
    assert [(d.node, d.code) for d in decisions] == [("bn0", "NF101"), ("bn1", "NF101"), ("bn2", "NF101")]
    assert normfold.explain(model, "bn1") == decisions[1:2]
    assert normfold.explain(model, "n1") == decisions[1:2], "the name of its output will do"
    assert [d.node for d in normfold.explain(model, "conv1")] == ["bn1"], "what a node takes"
    assert normfold.explain(model, "relu0") == ()
    with pytest.raises(UsageError) as caught:
        normfold.explain(model, "nobody")
    assert caught.value.code == "usage.no_node"
    report = normfold.inspect(model)
    assert [norm.node for norm in report.norms] == ["bn0", "bn1", "bn2"]
    assert (report.inputs, report.outputs, report.nodes) == (("x",), ("y",), 9)
    assert report.norms[0].channels == 4
    assert report.norms[0].foldable.startswith("applied NF101")


def test_verify_tells_equal_from_different(tmp_path: Path) -> None:
    source = save(conv_bn(), tmp_path / "m.onnx")
    normfold.optimize(source, tmp_path / "good.onnx", config=REGION)
    assert normfold.verify(source, tmp_path / "good.onnx").status is normfold.Status.PASS
    bad = onnx.load(str(tmp_path / "good.onnx"))
    weight = next(item for item in bad.graph.initializer if item.name == "w1")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] *= 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w1"))
    save(bad, tmp_path / "bad.onnx")
    found = normfold.verify(source, tmp_path / "bad.onnx")
    assert found.status is normfold.Status.FAIL
    assert [output.name for output in found.outputs if not output.status.passed] == ["y"]


def test_a_model_without_norms() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    result = normfold.optimize(model)
    assert not result.changed
    assert result.report.decisions == ()
    assert result.report.status == "unchanged"


def test_a_dimension_of_minus_one_is_any() -> None:
    """Caffe2 and others write -1 where the format has a symbol."""
    model = conv_bn()
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = -1
    result = normfold.optimize(model)
    assert count(result.model) == 0
    assert result.report.verification is not None
    assert result.report.verification.verdict == "PASS"
    assert interface(result.model) == interface(model)


def test_an_output_that_the_author_lists_twice() -> None:
    model = conv_bn()
    model.graph.output.append(model.graph.output[0])
    result = normfold.optimize(model)
    assert count(result.model) == 0
    assert interface(result.model) == interface(model)
