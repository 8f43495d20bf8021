"""`--links` and `--untrusted`, at every command that reads a model with external data."""

# ruff: noqa: F811  the fixture that is imported

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.test_cli import Runner, model, normfold  # noqa: F401


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A model of a download cache: it and its data are links into one directory."""
    blobs, shown = tmp_path / "blobs", tmp_path / "shown"
    blobs.mkdir()
    shown.mkdir()
    onnx.save(model(), blobs / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    for name in ("m.onnx", "m.data"):
        (shown / name).symlink_to(f"../blobs/{name}")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(64, 3, 4, 4)).astype(np.float32))
    return shown / "m.onnx"


COMMANDS = {
    "optimize": ("optimize", "M", "-o", "OUT"),
    "verify": ("verify", "M", "M"),
    "inspect": ("inspect", "M"),
    "check": ("check", "M", "--exit-zero"),
    "explain": ("explain", "M"),
    "recalibrate": ("recalibrate", "M", "--data", "X", "--dry-run"),
    "stats collect": ("stats", "collect", "M", "--data", "X", "-o", "OUT"),
    "stats record": ("stats", "record", "M", "--data", "X", "-o", "OUT"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_links_are_refused_where_that_is_asked(normfold: Runner, cache: Path, tmp_path: Path, command: str) -> None:
    places = {"M": cache, "OUT": tmp_path / "o.onnx", "X": tmp_path / "x.npy"}
    arguments = [places.get(word, word) for word in COMMANDS[command]]
    for options in (("--links", "deny"), ("--untrusted",)):
        done = normfold(*arguments, *options)
        assert done.code == 2, done.out
        assert "symbolic link" in done.err
        assert "--links hf" in done.err
        assert done.err.count("\n") == 1
    assert not (tmp_path / "o.onnx").exists()


def test_the_cache_of_a_hub_is_a_model_by_default(normfold: Runner, cache: Path, tmp_path: Path) -> None:
    done = normfold("optimize", cache, "-o", tmp_path / "o.onnx")
    assert done.code == 0, done.err


def test_strangers_with_a_plain_file_are_served(normfold: Runner, cache: Path, tmp_path: Path) -> None:
    done = normfold("optimize", tmp_path / "blobs" / "m.onnx", "-o", tmp_path / "o.onnx", "--untrusted")
    assert done.code == 0, done.err
    assert (tmp_path / "o.onnx").exists()


def test_hard_links_of_strangers(normfold: Runner, cache: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "blobs" / "m.data", tmp_path / "further")
    source = tmp_path / "blobs" / "m.onnx"
    done = normfold("optimize", source, "-o", tmp_path / "o.onnx", "--untrusted", "--links", "allow")
    assert done.code == 2
    assert "hard link" in done.err
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("command", ["check", "recalibrate", "stats collect", "stats record"])
def test_no_runtime_follows_a_link_that_our_own_reader_would_not(
    normfold: Runner, cache: Path, tmp_path: Path, command: str
) -> None:
    """A link to a file outside is refused before the runtime, which opens data by their names, sees the model."""
    for name in ("m.onnx", "m.data"):
        (tmp_path / "shown" / name).unlink()
    (tmp_path / "blobs" / "m.onnx").rename(tmp_path / "shown" / "m.onnx")
    (tmp_path / "shown" / "m.data").symlink_to("../blobs/m.data")
    places = {"M": cache, "OUT": tmp_path / "o.onnx", "X": tmp_path / "x.npy"}
    arguments = [*COMMANDS[command], *(("--data", "X") if command == "check" else ())]
    done = normfold(*(places.get(word, word) for word in arguments))
    assert done.code == 2, done.out
    assert "not a file inside the model's directory" in done.err
    allowed = normfold(*(places.get(word, word) for word in arguments), "--links", "allow")
    assert "not a file inside" not in allowed.err


@pytest.mark.parametrize("command", COMMANDS)
def test_bounds_are_for_every_command(normfold: Runner, cache: Path, tmp_path: Path, command: str) -> None:
    places = {"M": cache, "OUT": tmp_path / "o.onnx", "X": tmp_path / "x.npy"}
    arguments = [places.get(word, word) for word in COMMANDS[command]]
    done = normfold(*arguments, "--cap", "entries=5", "--cap", "files=3")
    assert done.code == 2, done.out
    assert "--cap entries=N allows more" in done.err
    assert done.err.count("\n") == 1


def test_bounds_of_the_environment(normfold: Runner, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMFOLD_CAPS", "entries=5 files=3")
    assert "more than 5" in normfold("inspect", cache).err
    assert normfold("inspect", cache, "--cap", "entries=5000").code == 0, "the command line goes before"
    done = normfold("inspect", cache, "--cap", "entires=5000")
    assert (done.code, done.out) == (2, "")
    assert "did you mean entries?" in done.err


def test_an_unknown_policy(normfold: Runner, cache: Path) -> None:
    done = normfold("inspect", cache, "--links", "some")
    assert done.code == 2
    assert "deny" in done.err
