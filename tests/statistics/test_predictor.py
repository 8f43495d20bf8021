"""Statistics that follow from the weights before them, and such that do not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from normfold.model.load import load
from normfold.statistics.file_rules import activations, gaussian
from normfold.statistics.file_rules.predictor import predict
from normfold.statistics.subject import open_subject
from tests.statistics.build import Change, chain, changed, examine, found, healthy, trained
from tests.support import build

SAMPLES = np.random.default_rng(0).normal(size=400_000)


def sampled(f: Callable[[np.ndarray], np.ndarray], mean: float, std: float) -> tuple[float, float]:
    y = f(mean + std * SAMPLES)
    return float(y.mean()), float(y.var())


ACTIVATIONS: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
    ("Relu(x)", lambda x: np.maximum(x, 0)),
    ("LeakyRelu<alpha: float = 0.2>(x)", lambda x: np.where(x > 0, x, 0.2 * x)),
    ("PRelu(x, slope)", lambda x: np.where(x > 0, x, 0.3 * x)),
    ("Clip(x, low, high)", lambda x: np.clip(x, 0, 6)),
    ("Clip(x, low)", lambda x: np.maximum(x, 0)),
    ("Elu(x)", lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    ("Sigmoid(x)", lambda x: 1 / (1 + np.exp(-x))),
    ("HardSwish(x)", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("Gelu(x)", lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
]


@pytest.mark.parametrize(("text", "f"), ACTIVATIONS, ids=[text for text, _ in ACTIVATIONS])
def test_the_mean_of_an_activation(text: str, f: Callable[[np.ndarray], np.ndarray]) -> None:
    numbers = {"slope": np.array([0.3]), "low": np.array(0.0), "high": np.array(6.0)}
    model = build(
        f"y = {text}", "float[N,2] x", "float[N,2] y", {k: v.astype(np.float32) for k, v in numbers.items()}, opset=20
    )
    subject = open_subject(model)
    node = subject.model.graph.nodes[0]
    mean, std = np.array([0.4, -1.0]), np.array([1.5, 0.3])
    result = activations.moments(subject, node, mean, std)
    assert result is not None
    for channel in range(2):
        first, second = sampled(f, mean[channel], std[channel])
        assert result[0][channel] == pytest.approx(first, abs=0.01)
        assert result[1][channel] == pytest.approx(second, abs=0.03)


def test_an_operator_that_is_no_activation() -> None:
    subject = open_subject(build("y = Sin(x)", "float[N,2] x", "float[N,2] y"))
    one = np.ones(2)
    assert activations.moments(subject, subject.model.graph.nodes[0], one, one) is None


def test_a_channel_without_spread_is_its_mean() -> None:
    mean, var = gaussian.rectified(np.array([2.0, -2.0]), np.zeros(2))
    np.testing.assert_allclose(mean, [2, 0])
    np.testing.assert_allclose(var, [0, 0])


def test_a_healthy_chain_is_explained() -> None:
    layers = examine(healthy()).layers
    assert layers[0].prediction is None, "nothing is known of the input"
    for layer in layers[1:]:
        assert layer.prediction is not None and layer.prediction.correlation is not None
        assert layer.prediction.correlation > 0.95
        assert layer.prediction.slope == pytest.approx(1, abs=0.1)
        assert layer.channels is not None and len(layer.channels.predicted_mean) == 16


@pytest.mark.parametrize("seed", range(4))
def test_swapped_layers_are_both_named(seed: int) -> None:
    values = trained(8, seed=seed)
    for name in "mv":
        values[f"{name}3"], values[f"{name}5"] = values[f"{name}5"], values[f"{name}3"]
    report = examine(chain(values))
    assert {(f.code, f.node) for f in report.findings} <= {(code, f"bn{i}") for i in (3, 5) for code in ("S13", "S09")}
    assert {f.node for f in report.findings} == {"bn3", "bn5"}
    assert report.verdict == "warn"


def test_a_moving_average_that_has_not_converged() -> None:
    def short(share: float) -> Change:
        def change(values: dict[str, np.ndarray]) -> None:
            for i in range(6):
                values[f"m{i}"] *= np.float32(share)
                values[f"v{i}"] = (1 + share * (values[f"v{i}"] - 1)).astype(np.float32)

        return change

    (finding,) = found(changed(short(0.634)), "S10")
    assert finding.evidence[0].value == pytest.approx(0.634, abs=0.03)
    assert not found(changed(short(0.97)), "S10")


def test_weights_that_moved_away_from_their_statistics() -> None:
    def moved(values: dict[str, np.ndarray]) -> None:
        rng = np.random.default_rng(9)
        for i in range(6):
            values[f"w{i}"] = rng.normal(size=values[f"w{i}"].shape).astype(np.float32) / 4

    (finding,) = found(changed(moved), "S09")
    assert finding.severity == "warning" and finding.node == ""


def test_weights_that_moved_a_little_are_none() -> None:
    def moved(values: dict[str, np.ndarray]) -> None:
        rng = np.random.default_rng(9)
        for i in range(6):
            values[f"w{i}"] *= rng.normal(1, 0.1, values[f"w{i}"].shape).astype(np.float32)

    assert not examine(changed(moved)).findings


def test_a_small_model_is_not_judged() -> None:
    values = trained(3)
    values["m2"] = values["m2"][::-1].copy()
    assert not found(chain(values), "S13")


def test_padding_lowers_the_mean() -> None:
    """A 3x3 kernel of ones on a constant input: what lies in the padding counts as 0."""
    body = """
    n = BatchNormalization(x, g, b, m, v)
    c = Conv<pads: ints = [1,1,1,1]>(n, w)
    y = BatchNormalization(c, g2, b2, m2, v2)
    """
    one = np.ones(1, np.float32)
    true = (1 + 2 * 7 / 8) ** 2  # taps: (H-1)/H, 1, (H-1)/H on each axis, H = 8
    init = {"w": np.ones((2, 1, 3, 3), np.float32), "g": one * 1e-6, "b": one, "m": one, "v": one * 2}
    init |= {"g2": np.ones(2, np.float32), "b2": np.ones(2, np.float32), "v2": np.ones(2, np.float32)}
    init["m2"] = np.full(2, true, np.float32)
    for size, expected in (("8", true), ("H", 9.0)):
        model = build(body, f"float[N,1,{size},{size}] x", f"float[N,2,{size},{size}] y", init)
        (found_,) = predict(open_subject(model))
        np.testing.assert_allclose(found_.predicted, expected, rtol=1e-6)


BRANCHES = """
n1 = BatchNormalization(x, g, b, m, v)
n2 = BatchNormalization(x, g, b, m, v)
{join}
c = Conv(j, w)
y = BatchNormalization(c, g2, b2, m2, v2)
"""


@pytest.mark.parametrize(
    ("join", "inputs", "expected"),
    [
        ("j = Add(n1, n2)", 4, 2.0),
        ("j = Concat<axis: int = 1>(n1, n2)", 8, 1.0),
        ("j = AveragePool<kernel_shape: ints = [2,2]>(n1)", 4, 1.0),
        (
            "s = Sigmoid(n1)\nj = Mul(n1, s)",
            4,
            float(gaussian.activated(lambda x: x / (1 + np.exp(-x)), np.ones(1), np.ones(1))[0][0]),
        ),
        ("j = MaxPool<kernel_shape: ints = [2,2]>(n1)", 4, None),
        ("s = Sigmoid(n2)\nj = Mul(n1, s)", 4, None),
    ],
    ids=["add", "concat", "average pool", "silu", "max pool", "gate of another tensor"],
)
def test_what_carries_a_mean_on(join: str, inputs: int, expected: float | None) -> None:
    four = np.ones(4, np.float32)
    init = {"g": four, "b": four, "m": four, "v": four * 2, "w": np.ones((2, inputs, 1, 1), np.float32)}
    init |= {f"{name}2": np.array([1, 2], np.float32) for name in "gbmv"}
    model = build(BRANCHES.format(join=join), "float[N,4,8,8] x", "y", init)
    found_ = predict(open_subject(model))
    if expected is None:
        assert not found_
    else:
        np.testing.assert_allclose(found_[0].predicted, expected * inputs, rtol=1e-6)


def test_the_model_is_not_changed() -> None:
    model = healthy()
    before = model.SerializeToString()
    predict(open_subject(model))
    assert model.SerializeToString() == before
    assert load(model).path is None
