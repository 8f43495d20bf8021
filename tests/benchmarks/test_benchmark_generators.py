"""Every generated model is a valid one, the large ones at tiny sizes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks.generate.large import chain, cnn, transformer, write_external, write_inline, write_many
from benchmarks.generate.shapes import FORMS
from benchmarks.generate.small import BUILDERS
from benchmarks.measure.process import run
from benchmarks.measure.session import plain
from benchmarks.sources import sources


@pytest.mark.parametrize("name", BUILDERS)
def test_small_models_are_valid_and_reproducible(name: str) -> None:
    model = BUILDERS[name](3)
    onnx.checker.check_model(model, full_check=True)
    plain(model.SerializeToString())
    assert model.SerializeToString() == BUILDERS[name](3).SerializeToString()


def test_the_cnn_the_chain_and_the_transformer_are_valid() -> None:
    for model, nodes in ((cnn(blocks=4, channels=6), 12), (chain(nodes=30), 30), (transformer(nodes=40), 40)):
        onnx.checker.check_model(model, full_check=True)
        assert len(model.graph.node) == nodes


def test_the_external_model_loads_from_its_two_files(tmp_path: Path) -> None:
    path = write_external(tmp_path, layers=6, width=16, channels=8)
    onnx.checker.check_model(str(path), full_check=True)
    plain(path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert (tmp_path / "model.onnx.data").stat().st_size == 4 * (2 * 8 * 8 * 9 + 8 * 16 + 4 * 16 * 16)


@pytest.mark.parametrize("form", list(FORMS))
def test_the_forms_are_what_they_say(form: str) -> None:
    """`backwards` is not sorted, which the checker does not allow; runtimes do."""
    model = FORMS[form](300)
    count, pending = 0, [model.graph]
    while pending:
        graph = pending.pop()
        count += len(graph.node)
        pending += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    assert 0.8 * 300 <= count <= 1.3 * 300
    if form != "backwards":
        onnx.checker.check_model(model)
    plain(model.SerializeToString())


def test_the_large_file_is_a_model(tmp_path: Path) -> None:
    path = write_inline(tmp_path, layers=2, width=64)
    onnx.checker.check_model(str(path), full_check=True)
    plain(path)
    assert path.stat().st_size > 2 * 4 * 64 * 64


def test_the_model_of_many_tensors(tmp_path: Path) -> None:
    path = write_many(tmp_path, tensors=10, files=3)
    plain(path)
    assert len(list(tmp_path.glob("*.data"))) == 3


def test_sources_are_selected_by_pattern(tmp_path: Path) -> None:
    found = list(sources(tmp_path, tmp_path / "nowhere", ("generated/conv_*", "linear_norm")))
    assert [source.name for source in found] == ["conv_norm", "conv_transpose_grouped", "linear_norm"]
    assert all(source.path.exists() for source in found)


def test_a_run_reports_code_and_output(tmp_path: Path) -> None:
    assert run(["sh", "-c", "echo why; exit 3"]).code == 3
    assert run(["sh", "-c", "echo why; exit 3"]).tail == "why\n"
    assert run(["sleep", "60"], timeout=0.2).code == -9
