"""Models whose weights lie in other files: one transaction, and nobody else's file is touched."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import conv_bn, count, image, listing, run
from onnx.external_data_helper import convert_model_to_external_data

import normfold
from normfold import Config, InputError, OutputError

CONFIG = Config(verify="region")


def external(folder: Path, location: str = "m.data", *, several: bool = False, name: str = "m.onnx") -> Path:
    """A model with external data in one file, or in one file per tensor."""
    model = conv_bn(3, 16)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    convert_model_to_external_data(model, all_tensors_to_one_file=not several, location=location, size_threshold=0)
    if several and "/" in location:
        for item in model.graph.initializer:
            for entry in item.external_data:
                if entry.key == "location":
                    entry.value = f"{location.split('/')[0]}/{item.name}"
    onnx.save_model(model, str(folder / name))
    return folder / name


def outputs(path: Path) -> np.ndarray:
    return run(path, image())[0]


def data_files(folder: Path) -> list[str]:
    return sorted(name for name in listing(folder) if not name.endswith((".onnx", ".normstats.npz")))


LAYOUTS = pytest.mark.parametrize(
    ("location", "several"), [("m.data", False), ("sub/m.data", False), ("weights", True), ("sub/w", True)]
)


@LAYOUTS
def test_beside_the_original(tmp_path: Path, location: str, several: bool) -> None:
    source = external(tmp_path, location, several=several)
    before, wanted = listing(tmp_path), outputs(source)
    normfold.optimize(source, tmp_path / "out.onnx")
    after = listing(tmp_path)
    assert {name: after[name] for name in before} == before, "nothing that was there changed"
    new = sorted(set(after) - set(before))
    assert len(new) == 3 and new[1] == "out.normstats.npz"
    assert new[0].startswith("out.")
    assert new[0].endswith(".data")
    assert count(onnx.load(str(tmp_path / "out.onnx"), load_external_data=False)) == 0
    np.testing.assert_allclose(outputs(tmp_path / "out.onnx"), wanted, rtol=1e-4, atol=1e-5)


def test_who_wants_no_sync_and_who_wants_no_file_do_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = external(tmp_path / "in")
    waited: list[int] = []
    monkeypatch.setattr(os, "fsync", waited.append)
    normfold.optimize(source, tmp_path / "safe.onnx", config=CONFIG)
    assert waited
    waited.clear()
    normfold.optimize(source, tmp_path / "quick.onnx", config=CONFIG.model_copy(update={"sync": False}))
    normfold.optimize(source, None, config=CONFIG)
    assert not waited
    assert count(onnx.load(str(tmp_path / "quick.onnx"))) == 0


@LAYOUTS
def test_into_another_directory(tmp_path: Path, location: str, several: bool) -> None:
    source = external(tmp_path / "a", location, several=several)
    (tmp_path / "b").mkdir()
    normfold.optimize(source, tmp_path / "b" / "out.onnx", config=CONFIG)
    wanted = outputs(source)
    shutil.rmtree(tmp_path / "a")
    np.testing.assert_allclose(outputs(tmp_path / "b" / "out.onnx"), wanted, rtol=1e-4, atol=1e-5)
    assert len(listing(tmp_path / "b")) == 3


@LAYOUTS
def test_in_place(tmp_path: Path, location: str, several: bool) -> None:
    source = external(tmp_path, location, several=several)
    before, wanted = listing(tmp_path), outputs(source)
    normfold.optimize(source, source, config=CONFIG, in_place=True)
    after = listing(tmp_path)
    kept = {name: data for name, data in before.items() if name != "m.onnx"}
    assert {name: after[name] for name in kept} == kept, "data that normfold did not write stay"
    np.testing.assert_allclose(outputs(source), wanted, rtol=1e-4, atol=1e-5)


def test_in_place_again_and_again(tmp_path: Path) -> None:
    """Nothing to do is nothing to delete."""
    source = external(tmp_path)
    normfold.optimize(source, source, config=CONFIG, in_place=True)
    once, wanted = listing(tmp_path), outputs(source)
    for _ in range(2):
        result = normfold.optimize(source, source, config=CONFIG, in_place=True)
        assert not result.changed
        assert listing(tmp_path) == once
    np.testing.assert_array_equal(outputs(source), wanted)


@pytest.mark.parametrize("location", ["m.data", "sub/m.data"])
def test_an_equal_copy_elsewhere_and_again(tmp_path: Path, location: str) -> None:
    """A model with nothing to do is copied with its data; doing it again is no conflict."""
    source = external(tmp_path / "a", location)
    (tmp_path / "b").mkdir()
    config = Config(verify="off", skip=("NF101", "NF102"))
    for _ in range(2):
        result = normfold.optimize(source, tmp_path / "b" / "m.onnx", config=config)
        assert not result.changed
        assert listing(tmp_path / "b") == listing(tmp_path / "a")


def test_other_data_of_that_name_are_not_overwritten(tmp_path: Path) -> None:
    source = external(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "m.data").write_bytes(b"precious")
    with pytest.raises(OutputError) as caught:
        normfold.optimize(source, tmp_path / "b" / "m.onnx", config=Config(verify="off", skip=("NF101", "NF102")))
    assert caught.value.code == "output.data_exists"
    assert listing(tmp_path / "b") == {"m.data": b"precious"}


def test_superseded_data_go(tmp_path: Path) -> None:
    source = external(tmp_path)
    normfold.optimize(source, tmp_path / "out.onnx", config=CONFIG)
    first = data_files(tmp_path)
    normfold.optimize(source, tmp_path / "out.onnx", config=Config(verify="off", skip=("NF101",)))
    assert "m.data" in first
    normfold.optimize(source, tmp_path / "out.onnx", config=CONFIG)
    assert data_files(tmp_path) == first


def test_superseded_data_stay_while_the_source_reads_them(tmp_path: Path) -> None:
    source = external(tmp_path)
    normfold.optimize(source, tmp_path / "out.onnx", config=CONFIG)
    copy = tmp_path / "copy.onnx"
    shutil.copyfile(tmp_path / "out.onnx", copy)
    wanted = outputs(copy)
    normfold.optimize(copy, tmp_path / "out.onnx", config=CONFIG)
    normfold.optimize(copy, tmp_path / "third.onnx", config=CONFIG)
    normfold.optimize(source, tmp_path / "third.onnx", config=CONFIG)
    np.testing.assert_array_equal(outputs(copy), wanted)


@pytest.mark.parametrize(
    "claim", ["precious.data", "m.data", "other.0123456789abcdef.data", "../up.data", "sub/x.data"]
)
def test_what_a_model_claims_is_not_believed(tmp_path: Path, claim: str) -> None:
    """A model that names somebody else's file as its superseded data."""
    folder = tmp_path / "d"
    source = external(folder)
    target = folder / claim
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
        target.write_bytes(b"precious")
    content = target.read_bytes()
    victim = conv_bn()
    victim.metadata_props.add(key="pkg.normfold.version", value=normfold.__version__)
    victim.metadata_props.add(key="pkg.normfold.data", value=claim)
    (folder / "out.onnx").write_bytes(victim.SerializeToString())
    normfold.optimize(source, folder / "out.onnx", config=CONFIG)
    assert target.read_bytes() == content


def test_data_in_memory_are_taken_in(tmp_path: Path) -> None:
    source = external(tmp_path)
    result = normfold.optimize(source, config=CONFIG)
    np.testing.assert_allclose(run(result.model, image())[0], outputs(source), rtol=1e-4, atol=1e-5)
    assert sorted(listing(tmp_path)) == ["m.data", "m.onnx"]


@pytest.mark.parametrize("damage", ["missing", "short", "directory"])
def test_damaged_data(tmp_path: Path, damage: str) -> None:
    source = external(tmp_path)
    data = tmp_path / "m.data"
    content = data.read_bytes()
    data.unlink()
    if damage == "short":
        data.write_bytes(content[:100])
    elif damage == "directory":
        data.mkdir()
    with pytest.raises(InputError) as caught:
        normfold.optimize(source, tmp_path / "out.onnx", config=CONFIG)
    assert caught.value.code in ("extdata.missing", "extdata.unreadable", "input.is_directory")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_data_outside_of_the_directory(tmp_path: Path, location: str) -> None:
    source = external(tmp_path / "d")
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    model = onnx.load(str(source), load_external_data=False)
    for item in model.graph.initializer:
        for entry in item.external_data:
            if entry.key == "location":
                entry.value = location
    source.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as caught:
        normfold.optimize(source, tmp_path / "d" / "out.onnx", config=CONFIG)
    assert caught.value.code == "extdata.escape"


def _hold(path: str, ready: object, done: object) -> None:
    from normfold.destination import lock

    with lock(Path(path)):
        ready.set()  # type: ignore[attr-defined]
        done.wait(30)  # type: ignore[attr-defined]


def test_a_destination_that_another_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold import destination

    monkeypatch.setattr(destination, "_LOCK_SECONDS", 0.2)
    out = tmp_path / "out.onnx"
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(str(out), ready, done))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(OutputError) as caught:
            normfold.optimize(conv_bn(), out, config=CONFIG)
        assert caught.value.code == "output.locked"
        assert listing(tmp_path) == {}
    finally:
        done.set()
        holder.join(30)
    normfold.optimize(conv_bn(), out, config=CONFIG)
    normfold.optimize(conv_bn(), out, config=CONFIG)
    assert sorted(listing(tmp_path)) == ["out.normstats.npz", "out.onnx"]
