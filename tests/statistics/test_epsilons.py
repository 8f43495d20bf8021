"""S06, N02 and N03: epsilon."""

from __future__ import annotations

import numpy as np
import pytest

from tests.statistics.build import changed, codes, found, healthy
from tests.support import build


def test_zero_and_unusual_epsilon() -> None:
    assert [f.node for f in found(healthy(epsilon=dict.fromkeys(range(6), 0.0)), "S06")] == [f"bn{i}" for i in range(6)]
    messages = [f.message for f in found(healthy(epsilon=dict.fromkeys(range(6), 3e-4)), "S06")]
    assert len(messages) == 6 and "0.0003" in messages[0]


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1.001e-5, 2e-5, 1e-4, 1e-6, 1e-12])
def test_what_frameworks_use_is_fine(epsilon: float) -> None:
    assert not found(healthy(epsilon=dict.fromkeys(range(6), epsilon)), "S06")


def test_mixed_epsilon_names_the_minority() -> None:
    (finding,) = found(healthy(epsilon={4: 1e-3}), "S06")
    assert finding.node == "" and finding.nodes == ("bn4",)
    assert "bn4 (0.001)" in finding.message


def test_variances_that_epsilon_rules() -> None:
    def small(share: float) -> object:
        def change(values: dict[str, np.ndarray]) -> None:
            values["v2"][: int(share * 16)] = 5e-5

        return change

    assert [f.node for f in found(changed(small(0.75)), "S06")] == ["bn2"]
    assert not found(changed(small(0.25)), "S06")


LAYER_NORM = "t = LayerNormalization<epsilon: float = {}>(x, s)\ny = LayerNormalization<epsilon: float = {}>(t, s)"


def layer_norms(first: float, second: float, kind: str = "float") -> set[str]:
    scale = np.ones(4, np.float16 if kind == "float16" else np.float32)
    return codes(build(LAYER_NORM.format(first, second), f"{kind}[N,4] x", f"{kind}[N,4] y", {"s": scale}))


def test_norms_without_statistics() -> None:
    assert not layer_norms(1e-5, 1e-5)
    assert layer_norms(1e-5, 1e-6) == {"N02"}
    assert layer_norms(0.0, 0.0) == {"N03"}


def test_an_epsilon_that_float16_stores_as_zero() -> None:
    assert layer_norms(1e-9, 1e-9, "float16") == {"N03"}
    assert not layer_norms(1e-9, 1e-9)
    assert not layer_norms(1e-6, 1e-6, "float16")
