"""M05: dropout and generators."""

from __future__ import annotations

import numpy as np
import pytest

from tests.statistics.build import found
from tests.support import build

IO = ("float[N,4] x", "float[N,4] y")


def severities(
    body: str, opset: int = 17, init: dict[str, np.ndarray] | None = None, listed: tuple[str, ...] = ()
) -> list[str]:
    model = build(body, *IO, init or {}, opset=opset, listed=listed)
    return [str(finding.severity) for finding in found(model, "M05")]


DROPOUT = "t = Dropout(x, ratio, mode)\ny = Relu(t)"


def modes(ratio: float, mode: bool) -> dict[str, np.ndarray]:
    return {"ratio": np.array(ratio, np.float32), "mode": np.array(mode)}


def test_active_dropout_is_an_error() -> None:
    assert severities(DROPOUT, init=modes(0.3, True)) == ["error"]
    assert severities("t = Dropout(x, , mode)\ny = Relu(t)", init={"mode": np.array(True)}) == ["error"]
    assert severities("t = Dropout<ratio: float = 0.4>(x)\ny = Relu(t)", opset=6) == ["error"]


@pytest.mark.parametrize(("ratio", "mode"), [(0.0, True), (0.3, False)])
def test_dropout_that_drops_nothing_is_none(ratio: float, mode: bool) -> None:
    assert not severities(DROPOUT, init=modes(ratio, mode))


def test_dropout_of_inference_is_none() -> None:
    assert not severities("t = Dropout(x)\ny = Relu(t)")
    assert not severities("t = Dropout<ratio: float = 0.4>(x)\ny = Relu(t)", opset=9)
    assert not severities("t = Dropout<is_test: int = 1>(x)\ny = Relu(t)", opset=6)


def test_a_mode_that_the_caller_gives_has_no_default_that_drops() -> None:
    model = build(DROPOUT, "float[N,4] x, bool mode", IO[1], {"ratio": np.array(0.3, np.float32)})
    assert not found(model, "M05")
    assert severities(DROPOUT, init=modes(0.3, True), listed=("mode",)) == ["error"]


def test_a_mask_that_is_drawn_is_dropout() -> None:
    body = "u = RandomUniformLike(x)\nk = Greater(u, p)\nc = Cast<to: int = 1>(k)\ny = Mul(x, c)"
    assert severities(body, init={"p": np.array(0.1, np.float32)}) == ["error"]
    assert severities("u = Bernoulli(p)\ny = Mul(x, u)", init={"p": np.full(4, 0.1, np.float32)}) == ["error"]


def test_noise_may_be_wanted() -> None:
    assert severities("u = RandomNormalLike(x)\ny = Add(x, u)") == ["warning"]


def test_what_nobody_reads_does_no_harm() -> None:
    assert not severities("u = RandomNormalLike(x)\ny = Relu(x)")
