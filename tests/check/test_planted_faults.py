"""Trained networks with one fault each: its code comes first, and exactly the layers at fault are root causes.

More cases and seeds are in `python -m benchmarks.check`.
"""

from __future__ import annotations

import pytest

from models import planted
from normfold.checking import CheckConfig, check
from normfold.statistics.data import DataOptions
from normfold.statistics.schema import CheckReport, Status

pytest.importorskip("torch", reason="torch trains these networks")

# They share one trained network of twenty layers, or are small.
NAMES = (
    "never_updated", "corrupted_layer", "swapped_layers", "under_trained", "momentum_swapped", "training_mode",
    "times_255", "swapped_colours", "small_batch",
)  # fmt: skip


def checked(name: str) -> tuple[planted.Case, CheckReport]:
    case = planted.build(name)
    config = CheckConfig(data=DataOptions(batch=case.batch_size))
    return case, check(case.model, data={"x": case.data}, config=config)


@pytest.mark.parametrize("name", NAMES)
def test_the_fault_is_named_first(name: str) -> None:
    case, report = checked(name)
    assert report.findings[0].code == case.code, report.summary
    assert report.verdict in (Status.WARN, Status.FAIL)
    if case.layers:
        assert tuple(layer.position for layer in report.layers if layer.is_root_cause) == case.layers


@pytest.mark.parametrize("name", ["healthy_cnn", "healthy_mlp"])
def test_a_healthy_network_is_left_alone(name: str) -> None:
    _, report = checked(name)
    assert not report.findings
    assert {layer.status for layer in report.layers} <= {Status.PASS, Status.INCONCLUSIVE}
