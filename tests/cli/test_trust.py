"""`--links` and `--untrusted`, at every command that reads a model with external data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.test_cli import model

ROOT = Path(__file__).parents[2]


def normfold(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


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
}


@pytest.mark.parametrize("command", COMMANDS)
def test_links_are_refused_where_that_is_asked(cache: Path, tmp_path: Path, command: str) -> None:
    places = {"M": cache, "OUT": tmp_path / "o.onnx", "X": tmp_path / "x.npy"}
    arguments = [places.get(word, word) for word in COMMANDS[command]]
    for options in (("--links", "deny"), ("--untrusted",)):
        done = normfold(*arguments, *options)
        assert done.returncode == 2, done.stdout
        assert "symbolic link" in done.stderr
        assert "--links hf" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o.onnx").exists()


def test_the_cache_of_a_hub_is_a_model_by_default(cache: Path, tmp_path: Path) -> None:
    done = normfold("optimize", cache, "-o", tmp_path / "o.onnx")
    assert done.returncode == 0, done.stderr


def test_strangers_with_a_plain_file_are_served(cache: Path, tmp_path: Path) -> None:
    done = normfold("optimize", tmp_path / "blobs" / "m.onnx", "-o", tmp_path / "o.onnx", "--untrusted")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.onnx").exists()


def test_hard_links_of_strangers(cache: Path, tmp_path: Path) -> None:
    os.link(tmp_path / "blobs" / "m.data", tmp_path / "further")
    source = tmp_path / "blobs" / "m.onnx"
    done = normfold("optimize", source, "-o", tmp_path / "o.onnx", "--untrusted", "--links", "allow")
    assert done.returncode == 2
    assert "hard link" in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_an_unknown_policy(cache: Path) -> None:
    done = normfold("inspect", cache, "--links", "some")
    assert done.returncode == 2
    assert "deny" in done.stderr
    assert "Traceback" not in done.stderr
