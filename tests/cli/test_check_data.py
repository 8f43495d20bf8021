"""`normfold check --data`: what a person types, and what comes back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import Runner, normfold  # noqa: F401 - a fixture
from tests.statistics.networks import Net, images

TRAIN, TEST = images(768, seed=1), images(256, seed=2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    net = Net(layers=5).fitted(TRAIN)
    (tmp_path / "fine.onnx").write_bytes(net.model().SerializeToString())
    mean, var = net.mean[2], net.var[2]
    wrong = net.with_layer(2, mean=mean + 2 * np.sqrt(var), var=var * 3)
    (tmp_path / "wrong.onnx").write_bytes(wrong.model().SerializeToString())
    np.savez(tmp_path / "x.npz", x=TEST, video=np.arange(256) // 4)
    np.savez(tmp_path / "large.npz", x=TEST * 255)
    return tmp_path


def test_data_that_fits(normfold: Runner, folder: Path) -> None:  # noqa: F811
    done = normfold("check", "fine.onnx", "--data", "x.npz", "--format", "json")
    assert done.code == 0
    report = json.loads(done.out)
    assert not [item for item in report["findings"] if item["origin"] == "data"]
    assert report["data"]["samples"] == 256 and report["data"]["batch_size"] == 32
    assert all(layer["status"] in ("pass", "inconclusive") and layer["j"] < 0.1 for layer in report["layers"])


def test_a_wrong_layer(normfold: Runner, folder: Path) -> None:  # noqa: F811
    done = normfold("check", "wrong.onnx", "--data", "x.npz")
    assert done.code == 1 and done.out.splitlines()[0].startswith("FAIL") and "S13" in done.out.splitlines()[0]
    sequential = normfold("check", "wrong.onnx", "--data", "x.npz", "--attribution", "sequential", "--format", "json")
    found = json.loads(sequential.out)
    assert [layer["node"] for layer in found["layers"] if layer["is_root_cause"]] == ["bn2"]


def test_what_was_forgotten(normfold: Runner, folder: Path) -> None:  # noqa: F811
    done = normfold("check", "fine.onnx", "--data", "large.npz", "--format", "json")
    report = json.loads(done.out)
    assert done.code == 1 and report["findings"][0]["code"] == "D01"
    assert report["preprocessing"]["winner"] == "divide by 255"


def test_the_options_of_the_data(normfold: Runner, folder: Path) -> None:  # noqa: F811
    options = ("--batch", "16", "--limit", "64", "--seed", "3", "--group-key", "video", "--format", "json")
    report = json.loads(normfold("check", "fine.onnx", "--data", "x.npz", *options).out)
    data = report["data"]
    assert (data["samples"], data["batch_size"], data["seed"]) == (64, 16, 3)
    assert 20 < data["groups"] <= 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "none.npz"), "no such file"),
        (("--batch", "4"), "give --data"),
        (("--data", "x.npz", "--mean", "0.5"), "folders of images"),
        (("--data", "x.npz", "--group-key", "patient"), "patient"),
        (("--data", "x.npz", "--size", "a"), "is no size"),
    ],
)
def test_mistakes_are_one_line(normfold: Runner, folder: Path, arguments: tuple[str, ...], words: str) -> None:  # noqa: F811
    done = normfold("check", "fine.onnx", *arguments)
    assert done.code == 2 and done.out == ""
    assert words in done.err and len(done.err.strip().splitlines()) == 1
