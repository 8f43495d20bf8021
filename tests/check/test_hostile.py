"""`recalibrate` and its files with what people and disks give them: one line, nothing written, never a traceback."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from normfold.collecting import check_output, collect_part
from normfold.errors import InputError, NormfoldError, OutputError
from normfold.recalibration import recalibrate
from normfold.statistics.archive import Archive, read_archive
from normfold.statistics.data.arrays import Archive as DataArchive
from normfold.statistics.data.arrays import load_array
from normfold.statistics.folded.records import Record, Records, read_records
from normfold.statistics.shards import Shard, read_part
from normfold.undoing import undo
from tests.check.networks import Net, images
from tests.check.sources import batches
from tests.model.build import net, node

X = images(256)
NET = Net(layers=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(NET.model(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def refused(folder: Path, call: Callable[[], object]) -> NormfoldError:
    """The error of a call that leaves a folder as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(NormfoldError) as caught:
        call()
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return caught.value


def with_one(value: float) -> np.ndarray:
    data = X.copy()
    data[70, 1, 2, 3] = value
    return data


DATA: dict[str, tuple[np.ndarray, str]] = {
    "NaN": (with_one(np.nan), "data.non_finite"),
    "infinity": (with_one(np.inf), "data.non_finite"),
    "too few channels": (X[:, :2], "data.shape"),
    "too few axes": (X[:, 0], "data.shape"),
    "text": (np.array(["a"] * 64), "data.shape"),
    "complex numbers": (X.astype(np.complex64), "data.dtype"),
    "one sample": (X[:1], "data.too_few"),
    "no sample": (X[:0], "data.empty"),
    "one sample again and again": (np.repeat(X[:1], 256, axis=0), "data.too_few"),
    "a constant": (np.ones_like(X), "data.too_few"),
    "too large for the type": ((X * 1e30).astype(np.float32), "data.not_finite"),
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_no_statistics_can_rest_on(name: str, model: Path) -> None:
    data, code = DATA[name]
    np.save(model.parent / "x.npy", data)
    error = refused(model.parent, lambda: recalibrate(model, model.parent / "new.onnx", data=model.parent / "x.npy"))
    assert error.code == code


LABELS: dict[str, tuple[Any, str]] = {
    "too few": (np.zeros(5, np.int64), "5 labels for 256 samples"),
    "too many": (np.zeros(300, np.int64), "300 labels for 256 samples"),
    "one hot": (np.eye(4)[np.zeros(256, int)], "shape [256, 4]"),
    "text": (np.array(["cat"] * 256), "type <U3"),
    "fractions": (np.full(256, 0.5), "one class number"),
    "NaN": (np.full(256, np.nan), "one class number"),
    "negative": (np.full(256, -1), "number the classes from 0"),
    "counted from 1": (np.tile([1, 2, 3, 4], 64), "a label of 4 for 4 classes"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_none(name: str, model: Path) -> None:
    labels, words = LABELS[name]
    error = refused(model.parent, lambda: recalibrate(model, model.parent / "new.onnx", data=batches(X), labels=labels))
    assert error.code == "data.labels" and words in str(error)


def test_labels_of_a_model_that_answers_otherwise(tmp_path: Path) -> None:
    weights = {"g": np.ones(3), "b": np.zeros(3), "m": np.ones(3), "v": np.ones(3)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    onnx.save(
        net([node("BatchNormalization", ["x", *weights], ["y"])], {"x": ["N", 3, 8, 8]}, ["y"], weights), tmp_path / "m"
    )
    error = refused(
        tmp_path, lambda: recalibrate(tmp_path / "m", tmp_path / "n", data=batches(X), labels=np.zeros(256, int))
    )
    assert "[N, 3, 8, 8]" in str(error) and "they need scores" in str(error)


# --- where to ---


def test_what_is_read_is_not_written_over(model: Path) -> None:
    folder = model.parent / "data"
    folder.mkdir()
    np.save(folder / "x.npy", X)
    for data, output in (
        (folder / "x.npy", folder / "x.npy"),
        (folder, folder / "x.npy"),
        ([f"x={folder / 'x.npy'}"], folder / "x.npy"),
        (folder / "x.npy", model),
    ):
        error = refused(model.parent, lambda data=data, output=output: recalibrate(model, output, data=data))
        assert error.code == "output.is_input" and isinstance(error, OutputError)
    with pytest.raises(OutputError, match="is a file that is read"):
        check_output(folder / "x.npy", [model, folder])
    assert check_output(folder / "part.npz", [model, folder]) == folder / "part.npz"


def test_a_destination_that_cannot_be_written(model: Path) -> None:
    for output, code in (
        (model.parent, "output.is_directory"),
        (model.parent / "no" / "n.onnx", "output.no_directory"),
    ):
        error = refused(model.parent, lambda output=output: recalibrate(model, output, data=batches(X)))
        assert error.code == code
    (model.parent / "n.undo.npz").mkdir()  # where the patch would go
    error = refused(model.parent, lambda: recalibrate(model, model.parent / "n.onnx", data=batches(X)))
    assert error.code.startswith("output.") and not (model.parent / "n.onnx").exists()


# --- the way back ---


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its repair and the patch, and those of another model."""
    folder = tmp_path_factory.mktemp("repaired")
    for seed, name in ((0, "m"), (5, "other")):
        onnx.save(Net(layers=2, seed=seed).model(), folder / f"{name}.onnx")
        recalibrate(folder / f"{name}.onnx", folder / f"{name}.new.onnx", data=batches(X))
    return folder


def changed(patch: Path, head: dict[str, Any] | None = None, **arrays: np.ndarray | None) -> bytes:
    """A patch with another head or other arrays, None for none, in an archive that is whole."""
    archive, _ = read_archive(patch, "undo")
    new = {name: array for name, array in {**archive.arrays, **arrays}.items() if array is not None}
    return Archive("undo", {**archive.head, **(head or {})}, new).to_bytes()


PATCHES: dict[str, Callable[[Path], bytes]] = {
    "nothing": lambda _: b"",
    "no archive": lambda _: b"PK\x03\x04 nothing",
    "the model": lambda patch: patch.with_name("m.onnx").read_bytes(),
    "cut off": lambda patch: patch.read_bytes()[:-30],
    "no segments": lambda patch: changed(patch, segments=None),
    "no bytes": lambda patch: changed(patch, bytes=None),
    "segments of text": lambda patch: changed(patch, segments=np.array([["a", "b"]])),
    "broken segments": lambda patch: changed(patch, segments=np.array([[0.5, 3]])),
    "segments in a row": lambda patch: changed(patch, segments=np.array([1, 2, 3])),
    "negative segments": lambda patch: changed(patch, segments=np.array([[-5, -3]])),
    "segments without end": lambda patch: changed(patch, segments=np.tile([[0, 1 << 40]], (100_000, 1))),
    "a checksum that is none": lambda patch: changed(patch, {"before": 3}),
    "no model": lambda patch: changed(patch, {"after": None}),
    "of another model": lambda patch: patch.with_name("other.new.undo.npz").read_bytes(),
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_that_is_damaged_or_of_another_model(name: str, repaired: Path, tmp_path: Path) -> None:
    shutil.copy(repaired / "m.new.onnx", tmp_path / "n.onnx")
    patch = tmp_path / "n.undo.npz"
    patch.write_bytes(PATCHES[name](repaired / "m.new.undo.npz"))
    error = refused(tmp_path, lambda: undo(tmp_path / "n.onnx", patch, tmp_path / "back.onnx"))
    assert error.code in ("undo.damaged", "undo.other_model")


def test_the_patch_is_not_written_over(repaired: Path, tmp_path: Path) -> None:
    for name in ("m.new.onnx", "m.new.undo.npz"):
        shutil.copy(repaired / name, tmp_path / name)
    patch = tmp_path / "m.new.undo.npz"
    assert refused(tmp_path, lambda: undo(tmp_path / "m.new.onnx", patch, patch)).code == "output.is_input"


# --- damage anywhere ---


def damaged(content: bytes, rng: random.Random) -> bytes:
    """With some bytes changed, near the beginning or anywhere, or cut off."""
    some = bytearray(content)
    reach = rng.choice((160, len(some)))
    for _ in range(rng.choice((1, 2, 8))):
        some[rng.randrange(min(reach, len(some)))] = rng.randrange(256)
    return bytes(some[: rng.randrange(len(some))] if rng.random() < 0.2 else some)


def files(folder: Path) -> Sequence[tuple[Path, Callable[[Path], object]]]:
    """One of each kind of file that normfold reads arrays from, and what reads it."""
    vectors = {name: np.ones(3) for name in ("gamma", "beta", "mean", "var")}
    record = Record("t", "input", "bn", "graph:1", "", 1e-5, **vectors, readers=(("y", 0),))
    np.save(folder / "a.npy", X[:4])
    np.savez_compressed(folder / "a.npz", x=X[:4])
    (folder / "baseline.npz").write_bytes(Records("baseline", (record,)).to_bytes())
    (folder / "part.npz").write_bytes(collect_part(NET.model(), batches(X[:8], 4), Shard(0, 1)).to_bytes())
    return (
        (folder / "a.npy", load_array),
        (folder / "a.npz", DataArchive),
        (folder / "baseline.npz", lambda path: read_records(path, "baseline")),
        (folder / "part.npz", read_part),
    )


def test_damage_in_a_file_of_arrays_is_one_line(tmp_path: Path) -> None:
    rng = random.Random(7)
    for path, read in files(tmp_path):
        content, noticed = path.read_bytes(), 0
        read(path)
        for _ in range(120):
            path.write_bytes(damaged(content, rng))
            try:
                read(path)
            except InputError as error:
                assert "\n" not in str(error)
                noticed += 1
        assert noticed > 30
