"""Every reason for not taking an operator: its key, and a message that names the constraint."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from normfold.model.dtypes import BFLOAT16, DOUBLE, FLOAT16
from normfold.norm.meaning import Norm, Surroundings
from normfold.targets.lower import Options, lower
from normfold.targets.lowering import Op, Rejected
from normfold.targets.names import Target
from normfold.targets.reasons import TARGET_REASONS
from normfold.targets.standard import span
from tests.targets import norms

P, CPU, CUDA, TRT, DML, OV = Target
CONTRIB = "com.microsoft.GroupNorm"

CASES: list[tuple[str, Target, Norm, dict[str, Any], str, str]] = [
    ("no-kernel", CPU, norms.group_norm(), {}, "GroupNormalization", "29 nodes"),
    ("no-kernel", TRT, norms.group_norm(), {}, CONTRIB, "16234"),
    ("element-type", TRT, norms.layer_norm(data_type=DOUBLE), {}, "LayerNormalization", "DOUBLE"),
    ("element-type", P, norms.layer_norm(data_type=DOUBLE), {}, "LayerNormalization", "float32 statistics"),
    ("rank", CUDA, norms.group_norm(spatial=(5,)), {}, CONTRIB, "rank 3"),
    ("axes", P, norms.norm((2, 12, 3, 4), (3,), groups=3, channel=1), {}, "any single operator", "groups"),
    ("layout", CUDA, norms.layer_norm_2d(), {}, "Transpose, one operator, Transpose", "move"),
    ("static-shape", P, norms.norm(("N", "S", "H"), (2,)), {}, "LayerNormalization", "dimension 2"),
    ("groups", CUDA, norms.group_norm(channels=12), {}, CONTRIB, "C/G = 3 is odd"),
    ("groups", CUDA, norms.group_norm(channels=2048, groups=2), {}, CONTRIB, "C/G = 1024 is more than 512"),
    ("groups", TRT, norms.group_norm(groups=1), {}, "GroupNormalization", "1 group"),
    ("opset-cap", CUDA, norms.instance_norm(), {"opset": 22}, "InstanceNormalization", "beyond opset 21"),
    ("opset-low", CPU, norms.rms_norm(), {}, "RMSNormalization", "23"),
    ("precision", CUDA, norms.group_norm(), {"precise": True}, CONTRIB, "E[x²]"),
    ("parameter-range", CPU, norms.layer_norm(gamma=np.full((1, 1, 8), 1e300)), {}, "LayerNormalization", "FLOAT"),
    ("epsilon", P, norms.layer_norm(epsilon=1e-60), {}, "LayerNormalization", "1e-60"),
    ("epsilon", P, norms.layer_norm(epsilon=1e-60), {}, "elementary operators", "FLOAT"),
    ("groups", P, norms.norm(("N", 8, 4), (2,), groups=3, channel=1), {}, "any operator", "multiple"),
    ("constant-size", P, norms.norm(("N", 1 << 31), (1,)), {}, "LayerNormalization", "2147483648 elements"),
    ("constant-size", CPU, norms.norm(("N", 1 << 31, 4), (2,)), {}, "InstanceNormalization", "2147483648 elements"),
    ("left-to-target", OV, norms.rms_norm(), {}, "SimplifiedLayerNormalization", "fusion"),
]


@pytest.mark.parametrize("extent", [1 << 25, 1 << 40, 1 << 62, (1 << 63) - 1])
@pytest.mark.parametrize("target", list(Target), ids=lambda t: t.value)
def test_declared_extents_cost_nothing(target: Target, extent: int) -> None:
    """A dimension is eight bytes of the file, whatever it says."""
    wide: list[Norm] = [
        norms.norm(("N", extent), (1,)),
        norms.norm(("N", extent, extent), (1, 2)),
        norms.norm(("N", extent, 4), (2,)),
        norms.norm(("N", 4, extent), (2,)),
        norms.norm(("N", extent, 4, 4), (2, 3), groups=4 if extent % 4 == 0 else 1, channel=1),
        norms.norm(("N", 8, extent, extent), (2, 3), groups=4, channel=1),
    ]
    tracemalloc.start()
    try:
        for norm in wide:
            lower(norm, target, Options(opset=17))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def rejected(norm: Norm, target: Target, around: Surroundings | None = None, **options: Any) -> tuple[Rejected, ...]:
    return lower(norm, target, Options(**{"opset": 17, **options}), around).rejected


@pytest.mark.parametrize(("key", "target", "norm", "options", "operator", "part"), CASES)
def test_a_rejection_names_the_constraint(
    key: str, target: Target, norm: Norm, options: dict[str, Any], operator: str, part: str
) -> None:
    found = [r for r in rejected(norm, target, **options) if r.operator == operator]
    assert [r.key for r in found] == [key]
    assert part in found[0].message
    assert "\n" not in found[0].message


@pytest.mark.parametrize("target", list(Target), ids=lambda t: t.value)
def test_nothing_is_normalised_over_no_elements(target: Target) -> None:
    for norm in (norms.layer_norm(dims=(0, 5, 8)), norms.group_norm(spatial=(0, 4))):
        choice = lower(norm, target, Options(17))
        assert not choice.lowerings
        assert [r.key for r in choice.rejected] == ["empty"]


def test_parameters_that_the_spelling_has_no_place_for() -> None:
    per_position = norms.group_norm(gamma=norms.numbers(1, 1, 4, 6))
    found = {r.operator: r.key for r in rejected(per_position, CPU, threads=1)}
    assert found["InstanceNormalization idiom, affine as BatchNormalization"] == "parameters"


def test_an_addition_that_the_operator_does_not_take() -> None:
    around = Surroundings(residual=norms.RESIDUAL)
    found = {r.operator: r.key for r in rejected(norms.group_norm(), CUDA, around)}
    assert found["com.microsoft.SkipGroupNorm"] == "surroundings"
    assert "com.microsoft.SkipGroupNorm" not in {r.operator for r in rejected(norms.group_norm(), CUDA)}


def test_every_key_is_tested() -> None:
    assert {case[0] for case in CASES} | {"empty", "parameters", "surroundings"} == set(TARGET_REASONS)


def test_an_operator_that_is_written_for_a_type_starts_where_the_type_does() -> None:
    assert span(Op("Mul", ("a", "b"), ("y",)), FLOAT16) == (7, None)
    assert span(Op("Mul", ("a", "b"), ("y",)), BFLOAT16) == (13, None)
    assert span(Op("ReduceMean", ("a",), ("y",), {"axes": [1], "keepdims": 1}), DOUBLE) == (7, 17)
    assert span(Op("ReduceMean", ("a", "axes"), ("y",), {"keepdims": 1}), DOUBLE) == (18, None)
    assert span(Op("InstanceNormalization", ("x", "s", "b"), ("y",), {"epsilon": 0.1}), BFLOAT16) == (22, None)
    assert span(Op("Cast", ("x",), ("y",), {"to": BFLOAT16}), FLOAT16) == (13, None)
    assert span(Op("SimplifiedLayerNormalization", ("x", "s"), ("y",), {"axis": -1}), FLOAT16) == (7, None)
    with pytest.raises(ValueError, match="no version"):
        span(Op("Transpose", ("x", "order"), ("y",)), FLOAT16)
