"""Whatever a user names as a file may be something else: a pipe that nobody writes to, a device, a directory, a bomb."""

# ruff: noqa: F811  the fixture that is imported

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import Runner, files, model, normfold  # noqa: F401

READERS: dict[str, tuple[str, ...]] = {
    "inputs": ("optimize", "M", "-o", "OUT", "--inputs", "x=p.npy"),
    "inputs archive": ("verify", "M", "M", "--inputs", "p.npz"),
    "verify": ("verify", "M", "p.onnx"),
    "data": ("check", "M", "--data", "p.npy"),
    "data archive": ("check", "M", "--data", "p.npz"),
    "named data": ("stats", "collect", "M", "--data", "x=p.npy", "-o", "OUT"),
    "checkpoint": ("check", "M", "--checkpoint", "p.safetensors"),
    "torch": ("check", "M", "--checkpoint", "p.pt"),
    "baseline": ("check", "M", "--baseline", "p.npz"),
    "settings": ("check", "M", "--config", "p.toml"),
    "suppressions": ("check", "M", "--suppress", "p.toml"),
    "labels": ("recalibrate", "M", "--data", "x.npy", "--labels", "p.npy", "-o", "OUT"),
    "patch": ("recalibrate", "M", "--undo", "p.npz", "-o", "OUT"),
    "model of a patch": ("recalibrate", "p.onnx", "--undo", "x.npz", "-o", "OUT"),
    "part": ("stats", "merge", "p.npz", "-o", "OUT"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    np.save(tmp_path / "x.npy", np.zeros((8, 3, 4, 4), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(words: tuple[str, ...]) -> list[str]:
    return [{"M": "m.onnx", "OUT": "out"}.get(word, word) for word in words]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_and_not_waited_for(normfold: Runner, folder: Path, reader: str, kind: str) -> None:
    words = READERS[reader]
    name = next(word.rpartition("=")[2] for word in words if word.rpartition("=")[2].startswith("p."))
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "device":
        Path(name).symlink_to("/dev/zero")
    else:
        Path(name).mkdir()
    if reader == "model of a patch":
        from normfold.statistics.archive import Archive

        Path("x.npz").write_bytes(Archive("undo", {}, {}).to_bytes())
    before = files(folder)
    done = normfold(*arguments(words))
    assert done.code == 2, done.out
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "internal" not in done.err
    assert files(folder) == before


def bomb(path: Path, name: str, elements: int, stored: int) -> None:
    """An archive with one array whose header claims more elements than there are."""
    content = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (elements,)}
    np.lib.format.write_array_header_1_0(content, header)
    content.write(bytes(stored))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", content.getvalue())


ARCHIVES = ["inputs archive", "data archive", "baseline", "patch", "part"]


@pytest.mark.parametrize("reader", ARCHIVES)
def test_an_archive_whose_arrays_claim_more_than_there_is(normfold: Runner, folder: Path, reader: str) -> None:
    for elements in (1 << 20, 1 << 40, 1 << 62):
        bomb(Path("p.npz"), "x", elements, 1 << 10)
        done = normfold(*arguments(READERS[reader]))
        assert done.code == 2, done.out
        assert done.err.count("\n") == 1
        assert "internal" not in done.err
    assert files(folder) == ["m.onnx", "p.npz", "x.npy"]


@pytest.mark.parametrize("reader", ARCHIVES)
def test_an_archive_that_unpacks_to_more_than_there_is_room_for(
    normfold: Runner, folder: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    import shutil

    from normfold.verification import numpy_files

    bomb(Path("p.npz"), "x", 1 << 22, 1 << 24)
    assert Path("p.npz").stat().st_size < 1 << 16
    monkeypatch.setattr(numpy_files, "system_memory", lambda: 1 << 20)
    usage = shutil.disk_usage(folder)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    done = normfold(*arguments(READERS[reader]), "--format", "json")
    assert done.code == 2
    error = json.loads(done.out)["error"]
    assert error["code"] == "resource.estimate"
    assert "unpacks to 16 MiB" in error["message"]


def test_a_forged_patch_cannot_take_more_than_there_is(normfold: Runner, folder: Path) -> None:
    """The same range a thousand times, and parts that are missing."""
    import hashlib

    from normfold.statistics.archive import Archive

    sha256 = hashlib.sha256(Path("m.onnx").read_bytes()).hexdigest()
    head = {"before": sha256, "after": sha256}
    size = Path("m.onnx").stat().st_size
    nothing = np.zeros(0, np.uint8)
    for arrays in (
        {},
        {"bytes": nothing},
        {"bytes": nothing, "segments": np.array([[0, size]] * 1000)},
        {"bytes": nothing, "segments": np.array([[0, 1 << 62], [0, 1 << 62], [0, 1 << 62], [0, 1 << 62]])},
        {"bytes": nothing, "segments": np.array([[-5, size]])},
        {"bytes": nothing, "segments": np.zeros(3)},
        {"bytes": nothing, "segments": np.array([["a", "b"]])},
    ):
        Path("p.npz").write_bytes(Archive("undo", head, arrays).to_bytes())
        done = normfold("recalibrate", "m.onnx", "--undo", "p.npz", "-o", "out", "--format", "json")
        assert done.code == 2
        assert json.loads(done.out)["error"]["code"] == "undo.damaged", arrays
    Path("p.npz").write_bytes(Archive("undo", head, {"bytes": nothing, "segments": np.array([[0, size]])}).to_bytes())
    assert normfold("recalibrate", "m.onnx", "--undo", "p.npz", "-o", "out").code == 0
    assert Path("out").read_bytes() == Path("m.onnx").read_bytes()


@pytest.mark.parametrize("command", ["optimize", "recalibrate", "stats"])
def test_a_dash_is_no_file_that_anybody_wants(normfold: Runner, folder: Path, command: str) -> None:
    words = {
        "optimize": ("optimize", "m.onnx", "-o", "-"),
        "recalibrate": ("recalibrate", "m.onnx", "--data", "x.npy", "-o", "-"),
        "stats": ("stats", "record", "m.onnx", "--data", "x.npy", "-o", "-"),
    }[command]
    done = normfold(*words)
    assert done.code == 2
    assert "./- is one" in done.err
    assert files(folder) == ["m.onnx", "x.npy"]


def test_a_manifest_that_is_no_file_is_passed_over(normfold: Runner, folder: Path) -> None:
    """Beside a stranger's model may stand what looks like its manifest."""
    assert normfold("optimize", "m.onnx", "-o", "o.onnx", "--verify", "off").code == 0
    os.mkfifo("a.normstats.npz")
    Path("b.normstats.npz").symlink_to("/dev/zero")
    Path("o.normstats.npz").rename("z.normstats.npz")
    assert normfold("check", "o.onnx", "--exit-zero").code == 0
    Path("z.normstats.npz").unlink()
    done = normfold("check", "o.onnx", "--exit-zero", "--format", "json")
    assert "is not beside the model" in done.out
