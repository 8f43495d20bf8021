"""What each target prefers for each norm: the table that people read, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normfold.model.dtypes import BFLOAT16, DOUBLE, FLOAT, FLOAT16
from normfold.norm.meaning import Norm, Surroundings
from normfold.targets.facts import Spelling
from normfold.targets.forms import canonical, forms
from normfold.targets.lower import SPELLINGS, Options, lower
from normfold.targets.lowering import MICROSOFT, SUM, Given, Lowering, X, Y
from normfold.targets.names import Target
from normfold.targets.tables import TABLES
from tests.targets import norms

IDIOM = "Reshape InstanceNormalization Reshape Mul Add"
DYNAMIC = "Reshape InstanceNormalization Shape Reshape Mul Add"
IDIOM_BATCH = "Reshape InstanceNormalization Reshape BatchNormalization"
ROWS = "Reshape LayerNormalization Reshape Mul Add"
WIDE = "Reshape LayerNormalization Reshape"
RMS = "Pow ReduceMean Add Sqrt Div Mul"
LAST_CAST = "Cast Pow ReduceMean Add Sqrt Div Mul Cast"
MOVED = "Transpose LayerNormalization Transpose"
LAYER, SIMPLE, INSTANCE = "LayerNormalization", "SimplifiedLayerNormalization", "InstanceNormalization"

P, CPU, CUDA, TRT, DML, OV = Target


def best(norm: Norm, target: Target, around: Surroundings | None = None, **options: Any) -> Lowering | None:
    """The first that is not in elementary operators."""
    choice = lower(norm, target, Options(**{"opset": 17, **options}), around)
    return next((lowering for lowering in choice.lowerings if not lowering.fallback), None)


def spelled(lowering: Lowering | None) -> str:
    return "" if lowering is None else " ".join(node.op_type for node in lowering.nodes)


TABLE: list[tuple[Target, Norm, dict[str, Any], str]] = [
    *((t, norms.layer_norm(), {}, LAYER) for t in Target),
    *((t, norms.rms_norm(), {}, SIMPLE) for t in (CPU, CUDA, DML)),
    *((t, norms.rms_norm(), {}, "") for t in (P, TRT, OV)),
    *((t, norms.rms_norm(), {"opset": 23}, "RMSNormalization") for t in (P, CPU, TRT)),
    (CPU, norms.rms_norm(data_type=BFLOAT16), {"opset": 23}, SIMPLE),
    (CUDA, norms.rms_norm(), {"opset": 23}, SIMPLE),
    (P, norms.group_norm(), {}, IDIOM),
    (OV, norms.group_norm(), {}, IDIOM),
    (OV, norms.group_norm(), {"opset": 21}, "GroupNormalization"),
    (TRT, norms.group_norm(), {}, "GroupNormalization"),
    (TRT, norms.group_norm(spatial=(5,)), {}, "Reshape GroupNormalization Reshape"),
    (TRT, norms.group_norm(spatial=(5, 2, 3)), {}, "Reshape GroupNormalization Reshape"),
    (TRT, norms.group_norm(groups=1), {}, LAYER),
    (DML, norms.group_norm(), {}, "GroupNorm"),
    (DML, norms.group_norm(spatial=(5,)), {}, IDIOM),
    (DML, norms.group_norm(spatial=(5,)), {"opset": 22}, ROWS),
    (DML, norms.group_norm_last(), {}, "GroupNorm"),
    (CUDA, norms.group_norm(), {}, "Transpose GroupNorm Transpose"),
    (CUDA, norms.group_norm(), {"precise": True}, IDIOM),
    (CUDA, norms.group_norm(spatial=(5,)), {}, IDIOM),
    (CUDA, norms.group_norm(spatial=(5,)), {"opset": 22}, ROWS),
    (CUDA, norms.group_norm(channels=12), {}, IDIOM),
    (CUDA, norms.group_norm_last(), {}, "GroupNorm"),
    (CPU, norms.group_norm(), {"threads": 1}, IDIOM_BATCH),
    (CPU, norms.group_norm(), {}, ROWS),
    (CPU, norms.group_norm(), {"threads": 8}, ROWS),
    (CPU, norms.group_norm(), {"precise": True}, WIDE),
    (CPU, norms.group_norm(), {"precise": True, "threads": 1}, WIDE),
    (CPU, norms.group_norm(data_type=FLOAT16), {}, WIDE),
    (CPU, norms.group_norm(data_type=DOUBLE, epsilon=2.0**-17), {"threads": 1}, WIDE),
    (CPU, norms.group_norm(data_type=BFLOAT16), {}, WIDE),
    (CPU, norms.group_norm(spatial=("H", "W")), {}, DYNAMIC),
    (CPU, norms.group_norm(spatial=("H", "W")), {"threads": 1}, DYNAMIC.replace("Mul Add", "BatchNormalization")),
    (CPU, norms.group_norm(spatial=(4, "W")), {}, IDIOM),
    (CPU, norms.group_norm(gamma=None, beta=None), {"threads": 1}, "Reshape InstanceNormalization Reshape"),
    (CPU, norms.group_norm(groups=8), {"threads": 1}, INSTANCE),
    (CPU, norms.group_norm_last(), {"threads": 1}, f"Transpose {IDIOM_BATCH} Transpose"),
    (CPU, norms.group_norm_last(), {}, f"Transpose {ROWS} Transpose"),
    (CPU, norms.layer_norm_2d(), {}, MOVED),
    (TRT, norms.layer_norm_2d(), {}, MOVED),
    *((t, norms.layer_norm_2d(), {}, "") for t in (P, CUDA, DML, OV)),
    *((t, norms.instance_norm(), {}, INSTANCE) for t in Target),
    (CUDA, norms.instance_norm(), {"opset": 22}, ROWS),
    (DML, norms.instance_norm(), {"opset": 22}, ROWS),
    (P, norms.instance_norm(), {"opset": 22}, INSTANCE),
    (CPU, norms.instance_norm(data_type=FLOAT16), {}, WIDE),
    (CPU, norms.group_norm_last(groups=None), {}, f"Transpose {INSTANCE} Transpose"),
    (P, norms.group_norm_last(groups=None), {}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("target", "norm", "options", "wanted"), TABLE)
def test_the_first_choice(target: Target, norm: Norm, options: dict[str, Any], wanted: str) -> None:
    assert spelled(best(norm, target, **options)) == wanted


def test_every_spelling_can_be_written_and_is_used() -> None:
    assert set(SPELLINGS) == set(Spelling)
    used = {e.spelling for t in TABLES.values() for row in t.rows.values() for e in row if hasattr(e, "spelling")}
    assert used | {table.elementary for table in TABLES.values()} == set(Spelling)


def test_every_target_has_a_table_and_every_kernel_its_evidence() -> None:
    assert list(TABLES) == list(Target)
    for table in TABLES.values():
        names = [(kernel.domain, kernel.operator) for kernel in table.kernels]
        assert len(names) == len(set(names))
        assert all(kernel.question == "" for kernel in table.kernels if kernel.evidence.is_confirmed)


# --- parameters and their types ---------------------------------------------------------------------------


def test_portable_writes_all_three_inputs() -> None:
    bare = norms.layer_norm(gamma=None, beta=None)
    assert [len(best(bare, t).nodes[0].inputs) for t in (P, TRT, OV)] == [3, 3, 3]  # type: ignore[union-attr]
    assert [len(best(bare, t).nodes[0].inputs) for t in (CPU, CUDA, DML)] == [2, 2, 2]  # type: ignore[union-attr]


def test_attributes_are_written_out() -> None:
    for target in Target:
        lowering = best(norms.layer_norm(epsilon=1e-12), target)
        assert lowering is not None
        assert lowering.nodes[0].attributes == {"axis": -1, "epsilon": float(np.float32(1e-12))}


def test_a_scale_has_exactly_the_shape_of_what_is_normalised() -> None:
    several = norms.norm(("N", 3, 4, 5), (2, 3), gamma=norms.numbers(1, 1, 4, 5), beta=norms.numbers(1, 1, 1, 5))
    lowering = best(several, CUDA)
    assert lowering is not None
    assert lowering.nodes[0].attributes["axis"] == -2
    assert [constant.values.shape for constant in lowering.constants] == [(4, 5), (4, 5)]


def test_what_the_operator_has_no_parameter_for_stays_outside() -> None:
    per_batch = norms.norm((2, 3, 4), (2,), gamma=norms.numbers(2, 3, 1), beta=norms.numbers(1, 1, 4))
    assert spelled(best(per_batch, CPU)) == "LayerNormalization Mul Add"
    position = norms.instance_norm(gamma=norms.numbers(1, 1, 4, 6), beta=None)
    assert spelled(best(position, P)) == "LayerNormalization"
    both = norms.instance_norm(gamma=norms.numbers(1, 8, 1, 6), beta=norms.numbers(1, 8, 1, 1))
    assert spelled(best(both, P)) == "LayerNormalization Mul Add"


def test_a_bias_of_an_rms_norm_is_an_add() -> None:
    assert spelled(best(norms.rms_norm(beta=norms.numbers(1, 1, 8)), CPU)) == f"{SIMPLE} Add"


def test_parameters_of_the_groups_go_into_the_operator() -> None:
    constant = np.repeat(norms.numbers(4), 2).reshape(1, 8, 1, 1)
    lowering = best(norms.group_norm(gamma=constant, beta=constant), P)
    assert spelled(lowering) == "Reshape InstanceNormalization Reshape"
    only_gamma = best(norms.group_norm(gamma=constant), P)
    assert spelled(only_gamma) == "Reshape InstanceNormalization Reshape Add"


def test_computed_parameters_are_wired() -> None:
    adaptive = norms.layer_norm(gamma=None, beta=None, scale="x", bias="y", dims=("N", 5, "H"))
    lowering = best(adaptive, P)
    assert lowering is not None
    assert lowering.nodes[0].inputs == (X, "x", "y")
    assert [isinstance(name, Given) for name in lowering.nodes[0].inputs] == [False, True, True]
    assert not lowering.constants
    rms = best(norms.rms_norm(gamma=None, scale="g", bias="b", dims=("N", 5, "H")), CPU)
    assert rms is not None
    assert [node.inputs for node in rms.nodes] == [(X, "g"), ("simplifiedlayernormalization", "b")]


WIDE_GAMMA = np.full((1, 1, 8), 1.0 + 2.0**-20) + np.arange(8) * 2.0**-18


@pytest.mark.parametrize(
    ("change", "target", "wanted"),
    [
        ({"parameter_type": FLOAT}, CPU, "LayerNormalization"),
        ({"parameter_type": FLOAT, "gamma": WIDE_GAMMA}, CPU, "Cast LayerNormalization Cast"),
        ({"parameter_type": FLOAT16, "gamma": WIDE_GAMMA}, CPU, "LayerNormalization"),
        ({"output_type": FLOAT}, P, "Cast LayerNormalization"),
        ({"output_type": FLOAT}, CUDA, "Cast LayerNormalization"),
        ({"output_type": BFLOAT16}, P, "Cast LayerNormalization Cast"),
        ({"output_type": FLOAT, "centred": False, "beta": None}, CUDA, SIMPLE),
        ({"output_type": FLOAT, "centred": False, "beta": None}, CPU, f"Cast {SIMPLE}"),
        ({"parameter_type": FLOAT, "gamma": WIDE_GAMMA, "centred": False, "beta": None}, CUDA, f"{SIMPLE} Cast"),
        ({"gamma": None, "scale": "g", "parameter_type": FLOAT}, CPU, "Cast LayerNormalization Cast"),
    ],
)
def test_no_type_is_narrower_than_the_norm_means(change: dict[str, Any], target: Target, wanted: str) -> None:
    assert spelled(best(norms.layer_norm(data_type=FLOAT16, **change), target)) == wanted


def test_narrow_types_are_widened_where_only_the_wide_one_has_a_kernel() -> None:
    lowering = best(norms.group_norm(data_type=BFLOAT16), CUDA, precise=True)
    assert spelled(lowering) == "Cast Reshape InstanceNormalization Reshape Mul Add Cast"
    assert spelled(best(norms.layer_norm(data_type=BFLOAT16), DML)) == "Cast LayerNormalization Cast"


def test_a_float64_norm_is_not_computed_with_float32_statistics() -> None:
    for target in (P, CUDA, TRT, DML, OV):
        choice = lower(norms.layer_norm(data_type=DOUBLE), target, Options(17))
        assert all(lowering.fallback for lowering in choice.lowerings)
    assert spelled(best(norms.layer_norm(data_type=DOUBLE, epsilon=2.0**-17), CPU)) == LAYER


def test_an_epsilon_that_float64_tells_from_that_of_an_attribute() -> None:
    """1e-5 as a float32 attribute is another number, and a norm in float64 another function."""
    choice = lower(norms.layer_norm(data_type=DOUBLE, epsilon=1e-5), CPU, Options(17))
    assert all(lowering.fallback for lowering in choice.lowerings)
    (rejected,) = (rejected for rejected in choice.rejected if rejected.operator == "LayerNormalization")
    assert rejected.key == "epsilon"
    assert "1e-05 is 9.999999747378752e-06 as a float32 attribute" in rejected.message
    assert "by 1e-08 of their size" in rejected.message  # half of 1 - 9.99999974e-6 / 1e-5
    assert spelled(best(norms.layer_norm(epsilon=1e-5), CPU)) == LAYER
    single = float(np.float32(1e-5))
    assert spelled(best(norms.layer_norm(data_type=DOUBLE, epsilon=single), CPU)) == LAYER


def test_what_the_epsilon_of_an_attribute_would_change_in_float64() -> None:
    """The number in the reason is what the norm of a row without variance would be off by."""
    wanted, single = 1e-5, float(np.float32(1e-5))
    row = np.array([1.0, -1.0]) * 1e-9
    exact, stored = (row / np.sqrt(row.var() + epsilon) for epsilon in (wanted, single))
    assert np.abs(stored / exact - 1).max() == pytest.approx(abs(single - wanted) / wanted / 2, rel=1e-6)
    assert np.abs(stored / exact - 1).max() > 1e6 * np.finfo(np.float64).eps


def test_contrib_group_norm_has_float32_parameters() -> None:
    for change in ({}, {"parameter_type": FLOAT, "gamma": WIDE_GAMMA.reshape(1, 8, 1, 1)}):
        lowering = best(norms.group_norm(data_type=FLOAT16, **change), CUDA)
        assert spelled(lowering) == "Transpose GroupNorm Transpose"
        assert lowering is not None
        assert {constant.data_type for constant in lowering.constants} == {FLOAT}


# --- surroundings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [CUDA, DML])
def test_an_addition_goes_into_the_operator(target: Target) -> None:
    around = Surroundings(residual=norms.RESIDUAL)
    lowering = best(norms.layer_norm(), target, around)
    assert lowering is not None
    assert lowering.takes_residual
    assert lowering.domains == {MICROSOFT: 1}
    (node,) = lowering.nodes
    assert node.op_type == "SkipLayerNormalization"
    assert node.inputs == ("left", "right", "scale", "bias")
    assert node.outputs == (Y, "", "", SUM)
    assert spelled(best(norms.rms_norm(), target, around)) == "SkipSimplifiedLayerNormalization"
    assert spelled(best(norms.layer_norm(), target, around, precise=True)) == LAYER
    assert spelled(best(norms.layer_norm(rank=4), target, around)) == LAYER


def test_additions_stay_where_only_the_standard_is_spoken_or_they_are_faster() -> None:
    for target in (P, TRT, OV, CPU):
        assert spelled(best(norms.layer_norm(), target, Surroundings(residual=norms.RESIDUAL))) == LAYER


def test_silu_and_an_embedding_go_into_the_group_norm_of_cuda() -> None:
    around = Surroundings(embedding="time", embedded="image", silu=True)
    lowering = best(norms.group_norm(), CUDA, around)
    assert spelled(lowering) == "Reshape Transpose SkipGroupNorm Transpose"
    assert lowering is not None
    assert lowering.takes_embedding
    assert lowering.takes_silu
    assert lowering.channels_last
    assert next(n for n in lowering.nodes if n.op_type == "SkipGroupNorm").attributes["activation"] == 1


def test_silu_stays_where_a_cast_stands_between() -> None:
    lowering = best(norms.group_norm(output_type=FLOAT16), CUDA, Surroundings(silu=True))
    assert lowering is not None
    assert not lowering.takes_silu


def test_a_residual_goes_into_the_group_norm_with_the_channels_last_only() -> None:
    around = Surroundings(residual=norms.RESIDUAL)
    lowering = best(norms.group_norm_last(), CUDA, around)
    assert lowering is not None
    assert lowering.nodes[0].inputs == ("left", "scale", "bias", "right")
    assert lowering.nodes[0].outputs == (Y, SUM)
    assert not best(norms.group_norm(), CUDA, around).takes_residual  # type: ignore[union-attr]


# --- forms ------------------------------------------------------------------------------------------------


def test_a_full_size_weight_that_does_not_vary_is_a_number() -> None:
    full = canonical(norms.rms_norm(gamma=np.full((2, 5, 8), 3.0), dims=(2, None, None)))
    assert full.dims == (2, 5, 8)
    assert full.gamma is not None
    assert full.gamma.shape == (1, 1, 1)


def test_ones_and_zeros_are_no_parameters() -> None:
    plain = canonical(norms.layer_norm(gamma=np.ones((1, 1, 8)), beta=np.zeros((1, 1, 8))))
    assert plain.gamma is None
    assert plain.beta is None


def test_a_sequence_without_parameters_is_a_layer_and_can_be_an_instance() -> None:
    bare = norms.layer_norm(gamma=None, beta=None)
    assert [form.name for form in forms(canonical(bare))] == ["LAYER", "INSTANCE"]
    dynamic = norms.norm(("N", 8, "L"), (2,))
    assert spelled(best(dynamic, CPU)) == INSTANCE


def test_groups_of_the_last_dimension_are_rows() -> None:
    gated = norms.norm(("N", "S", 12), (), centred=False, groups=3, channel=2, gamma=norms.numbers(1, 1, 12))
    lowering = best(gated, CPU)
    assert spelled(lowering) == f"Reshape {SIMPLE} Reshape Mul"
    assert lowering is not None
    assert [c.values.tolist() for c in lowering.constants if c.name.startswith("shape")] == [[0, 0, 3, 4], [0, 0, 12]]
