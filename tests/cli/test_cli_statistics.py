"""`recalibrate` and `stats` on the command line: exit codes, one line per mistake, documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.check.networks import Net, images

ROOT = Path(__file__).parents[2]
X = images(192)


def cli(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout, done.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(Net(layers=2).model(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "m.onnx"


def test_recalibrate_and_back(model: Path) -> None:
    before, data = model.read_bytes(), model.parent / "x.npy"
    out, _ = cli("recalibrate", model, "--data", data, "--batch", 16)
    new = model.parent / "m.recalibrated.onnx"
    assert "bn0" in out and "repaired" in out and str(new) in out and "--undo" in out
    _, err = cli("recalibrate", new, "--data", data, "--batch", 16, "-o", model.parent / "n.onnx", code=1)
    assert err.count("\n") == 1 and "a drop of" in err and not (model.parent / "n.onnx").exists()
    cli("recalibrate", new, "--undo", model.parent / "m.recalibrated.undo.npz", "-o", model.parent / "back.onnx")
    assert (model.parent / "back.onnx").read_bytes() == before


def test_documents(model: Path) -> None:
    data = model.parent / "x.npy"
    out, _ = cli("recalibrate", model, "--data", data, "--batch", 16, "--dry-run", "--format", "json")
    report = json.loads(out)
    assert (report["command"], report["status"], report["output"]) == ("recalibrate", "recalibrated", None)
    assert report["gate"]["accepted"] and report["layers"][0]["status"] == "repaired"
    out, _ = cli("recalibrate", model, "--data", model.parent / "no.npy", "--format", "json", code=2)
    assert json.loads(out)["error"]["code"] == "data.missing"
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.onnx", "x.npy"]


def test_mistakes(model: Path) -> None:
    data = model.parent / "x.npy"
    for arguments in (
        ("recalibrate", model),
        ("recalibrate", model, "--data", data, "--undo", data),
        ("recalibrate", model, "--data", data, "--labels", data, "--seed", 1),
        ("recalibrate", model, "--undo", data, "-o", model.parent / "y.onnx"),
        ("stats", "collect", model, "-o", model.parent / "p.npz"),
        ("stats", "collect", model, "--data", data, "--shard", "3/2", "-o", model.parent / "p.npz"),
        ("stats", "merge", data, "-o", model.parent / "p.npz"),
    ):
        out, err = cli(*arguments, code=2)
        assert out == "" and err.count("\n") == 1 and err.startswith("normfold: ")
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.onnx", "x.npy"]


def test_collect_merge_and_baseline(model: Path) -> None:
    folder, data = model.parent, model.parent / "x.npy"
    for index in (1, 2):
        cli("stats", "collect", model, "--data", data, "--shard", f"{index}/2", "-o", folder / f"{index}.npz")
    out, _ = cli("stats", "merge", folder / "1.npz", folder / "2.npz", "-o", folder / "w.npz", "--format", "json")
    report = json.loads(out)
    assert report["samples"] == 192 and report["shards"] == "2 of 2" and len(report["layers"]) == 2
    out, _ = cli("stats", "record", model, "--data", data, "-o", folder / "base.npz")
    assert "conv0" in out
    out, _ = cli(
        "check", model, "--data", data, "--baseline", folder / "base.npz", "--format", "json", "--fail-on", "never"
    )
    assert json.loads(out)["references"][0]["kind"] == "baseline"


def test_no_manifest(model: Path) -> None:
    cli("optimize", model, "--no-manifest", "--verify", "off")
    assert sorted(p.name for p in model.parent.iterdir()) == ["m.normfold.onnx", "m.onnx", "x.npy"]
