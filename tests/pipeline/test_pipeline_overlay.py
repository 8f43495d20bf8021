"""`--overlay`: what did not change stays in the data file of the original, which nobody touches."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import image, listing, run
from onnx import ModelProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

import normfold
from normfold import Config, InputError, OutputError
from normfold.destination import VERSION_KEY
from normfold.model import write
from normfold.model.write import DATA_KEY

CONFIG = Config(overlay=True, trials=1, manifest=False)


def made() -> ModelProto:
    """A Conv with its norm, which folds, and a large weight, which stays."""
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(16, 3, 3, 3)), "k": rng.normal(size=(image()["x"].shape[-1] - 2, 500)) / 20}
    values |= {name: rng.uniform(0.5, 1.5, 16) for name in ("g", "b", "m", "v")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MatMul", ["r", "k"], ["y"]),
    ]
    infos = [
        helper.make_tensor_value_info("x", 1, list(image()["x"].shape)),
        helper.make_tensor_value_info("y", 1, None),
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, location: str = "m.data", *, several: bool = False) -> Path:
    model = made()
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    convert_model_to_external_data(model, all_tensors_to_one_file=not several, location=location, size_threshold=0)
    onnx.save_model(model, str(folder / "m.onnx"))
    return folder / "m.onnx"


def outputs(path: Path) -> np.ndarray:
    return run(path, image())[0]


def places(path: Path) -> dict[str, dict[str, str]]:
    model = onnx.load(path, load_external_data=False)
    return {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer}


@pytest.mark.parametrize(("location", "several"), [("m.data", False), ("sub/m.data", False), ("any", True)])
def test_only_what_changed_is_written(tmp_path: Path, location: str, several: bool) -> None:
    source = saved(tmp_path, location, several=several)
    before, expected = listing(tmp_path), outputs(source)
    result = normfold.optimize(source, tmp_path / "o.onnx", config=CONFIG)
    assert result.report.verification is not None
    assert result.report.verification.verdict.startswith("PASS")
    after = listing(tmp_path)
    assert {name: after[name] for name in before} == before
    (data,) = set(after) - set(before) - {"o.onnx"}
    assert (tmp_path / data).stat().st_size == 16 * 3 * 3 * 3 * 4  # the weight of the Conv; its bias is small
    assert places(tmp_path / "o.onnx")["k"] == places(source)["k"]
    assert places(tmp_path / "o.onnx")["w"]["location"] == data
    np.testing.assert_allclose(outputs(tmp_path / "o.onnx"), expected, rtol=1e-3, atol=1e-4)
    assert all(path.stat().st_nlink == 1 for path in tmp_path.rglob("*") if path.is_file())
    size = result.report.bytes
    assert size is not None
    assert size.after is not None
    total = sum((tmp_path / name).stat().st_size for name in ("o.onnx", data))
    assert size.after == total + (image()["x"].shape[-1] - 2) * 500 * 4


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    source = saved(tmp_path)
    normfold.optimize(source, tmp_path / "o.onnx", config=CONFIG)
    before = listing(tmp_path)
    normfold.optimize(source, tmp_path / "o.onnx", config=CONFIG)
    assert listing(tmp_path) == before
    again = normfold.optimize(tmp_path / "o.onnx", tmp_path / "p.onnx", config=CONFIG)
    assert not again.changed
    assert (tmp_path / "p.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes()


def test_links_that_are_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(write.os, "link", denied)
    source = saved(tmp_path)
    normfold.optimize(source, tmp_path / "o.onnx", config=Config(overlay=True, verify="region", manifest=False))
    assert places(tmp_path / "o.onnx")["k"] == places(source)["k"]


def test_elsewhere_it_is_refused(tmp_path: Path) -> None:
    source = saved(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError) as caught:
        normfold.optimize(source, tmp_path / "out" / "o.onnx", config=CONFIG)
    assert caught.value.code == "output.overlay"
    assert listing(tmp_path / "out") == {}


def test_a_model_without_data_is_written_as_ever(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(made().SerializeToString())
    (tmp_path / "out").mkdir()
    normfold.optimize(tmp_path / "m.onnx", tmp_path / "out" / "o.onnx", config=CONFIG)
    assert list(listing(tmp_path / "out")) == ["o.onnx"]


def test_data_that_are_read_on_are_not_superseded(tmp_path: Path) -> None:
    """In place: the data file is normfold's own, of an earlier run, and the new model goes on reading it."""
    name = "m.0123456789abcdef.data"
    source = saved(tmp_path, name)
    model = onnx.load(source, load_external_data=False)
    for key, value in ((DATA_KEY, name), (VERSION_KEY, "0")):
        model.metadata_props.add(key=key, value=value)
    source.write_bytes(model.SerializeToString())
    expected = outputs(source)
    normfold.optimize(source, source, in_place=True, config=CONFIG)
    assert places(source)["k"]["location"] == name
    np.testing.assert_allclose(outputs(source), expected, rtol=1e-3, atol=1e-4)
    assert (tmp_path / name).exists()


def test_damaged_data_are_refused(tmp_path: Path) -> None:
    """Nothing of the large weight is copied, and yet it must be there."""
    source = saved(tmp_path)
    os.truncate(tmp_path / "m.data", (tmp_path / "m.data").stat().st_size - 3000)
    before = listing(tmp_path)
    with pytest.raises(InputError) as caught:
        normfold.optimize(source, tmp_path / "o.onnx", config=Config(overlay=True, verify="off", manifest=False))
    assert caught.value.code.startswith("extdata.")
    assert listing(tmp_path) == before


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli import app

    source = saved(tmp_path)
    assert app._run(["optimize", str(source), "--overlay", "--verify", "off", "--format", "json"]) == 0
    assert places(tmp_path / "m.normfold.onnx")["k"] == places(source)["k"]
