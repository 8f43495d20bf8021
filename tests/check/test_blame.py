"""The data or the statistics? What is wrong with one is not said of the other."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.statistics.part import Part
from normfold.statistics.schema import Severity, Status
from normfold.statistics.subject import open_subject
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.with_data import run_with_data
from tests.check.networks import Net, images
from tests.check.sources import batches

TRAIN, TEST = images(768, seed=1), images(256, seed=2)
NETS = {seed: Net(layers=6, seed=seed).fitted(TRAIN) for seed in (0, 3)}
COLOURS = np.array([1, -1, 0.5], np.float32)[:, None, None]


def examined(net: Net, x: np.ndarray = TEST) -> Part:
    source = batches(np.ascontiguousarray(x, np.float32), 32)
    return run_with_data(open_subject(net.model()), source, Thresholds())


def blurred(x: np.ndarray) -> np.ndarray:
    for axis in (2, 3):
        x = (np.roll(x, 1, axis) + x + np.roll(x, -1, axis)) / 3
    return x


DISTORTED = {
    "rounded": np.trunc(TEST),
    "clipped": np.clip(TEST, -0.5, 0.5),
    "without negative values": np.maximum(TEST, 0),
    "half of every image black": TEST * (np.arange(8) < 4),
    "blurred": blurred(TEST),
    "one colour": TEST * np.array([1, 0, 0], np.float32)[:, None, None],
    "without sign": np.abs(TEST),
}


@pytest.mark.parametrize("seed", NETS)
@pytest.mark.parametrize("name", DISTORTED)
def test_distorted_data_is_the_data(name: str, seed: int) -> None:
    """Its first layer alone may show it: rounding, clipping and black bars are gone behind a few convolutions."""
    part = examined(NETS[seed], DISTORTED[name])
    found = [finding.code for finding in part.findings if finding.code != "C01"]
    assert found and set(found) <= {"D01", "D02"}
    assert next(layer for layer in part.layers.values() if layer.is_root_cause).node == "bn0"


@pytest.mark.parametrize(
    "data",
    [np.ones_like(TEST), np.zeros_like(TEST), np.broadcast_to(COLOURS, TEST.shape), np.repeat(TEST[:1], 256, axis=0)],
    ids=["ones", "zeros", "colours", "one image"],
)
@pytest.mark.parametrize("seed", [0])
def test_samples_that_do_not_differ(data: np.ndarray, seed: int) -> None:
    part = examined(NETS[seed], data)
    assert [finding.code for finding in part.findings] == ["D02"]
    assert "all 256 samples look the same to the first layer" in part.findings[0].message
    assert part.findings[0].severity is Severity.ERROR
    rule = next(rule for rule in part.rules if rule.code == "D01")
    assert (rule.status, rule.reason) == (Status.SKIPPED, "all samples look the same to the first layers")


@pytest.mark.parametrize("seed", NETS)
def test_statistics_of_the_first_layer_are_still_found_at_fault(seed: int) -> None:
    """Means that no mean of the input gives: shifted, drawn anew, in another order."""
    net = NETS[seed]
    mean, var = net.mean[0], net.var[0]
    rng = np.random.default_rng(seed)
    for wrong in (
        net.with_layer(0, mean=mean + 2 * np.sqrt(var), var=var * 3),
        net.with_layer(0, mean=rng.normal(size=8), var=rng.uniform(0.1, 2, 8)),
    ):
        part = examined(wrong)
        assert part.findings[0].code == "S13" and part.findings[0].node == "bn0"


@pytest.mark.parametrize("index", [2, 4])
def test_a_layer_behind_the_first_one_is_never_the_data(index: int) -> None:
    net = NETS[0]
    wrong = net.with_layer(index, mean=net.mean[index] + 2 * np.sqrt(net.var[index]), var=net.var[index] * 3)
    part = examined(wrong)
    assert part.findings[0].code == "S13" and part.findings[0].node == f"bn{index}"


def test_a_part_of_the_model_is_called_that() -> None:
    """S15: the last three layers hold statistics of other data."""
    net, other = NETS[0], NETS[0].fitted(TRAIN * 3 + 2)
    for index in (3, 4, 5):
        net = net.with_layer(index, mean=other.mean[index] + 1, var=other.var[index] * 4)
    part = examined(net)
    assert part.findings[0].code == "S15" and "the last 3 of 6 layers" in part.findings[0].message
