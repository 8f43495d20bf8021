"""The mean of the training input, read out of the first layer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.check.build import chain, examine, trained

TRUE = np.array([0.485, 0.456, 0.406])


def shifted(mean: np.ndarray) -> dict[str, np.ndarray]:
    """The healthy chain as if its input had had another mean."""
    values = trained()
    values["m0"] = (values["m0"] + values["w0"][:, :, 0, 0] @ mean).astype(np.float32)
    return values


def test_the_mean_of_the_training_input() -> None:
    found = examine(chain(shifted(TRUE))).preprocessing
    assert found is not None and found.status == "skipped" and "no data" in found.reason
    np.testing.assert_allclose(np.array(found.implied_mean, float), TRUE, atol=0.05)
    assert found.implied_r2 == pytest.approx(1, abs=0.05)


def test_a_first_layer_that_says_nothing() -> None:
    fresh = trained()
    fresh["m0"][:], fresh["v0"][:] = 0, 1
    assert examine(chain(fresh)).preprocessing is None
    alike = trained()
    alike["w0"][:, 1] = alike["w0"][:, 0]  # two channels that it cannot tell apart
    assert examine(chain(alike)).preprocessing is None
