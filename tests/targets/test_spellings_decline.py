"""A spelling declines every norm that its operator cannot compute, whatever the tables ask of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from normfold.model.dtypes import DOUBLE, FLOAT, FLOAT16
from normfold.norm.meaning import Norm, Surroundings
from normfold.targets import lower as lowering
from normfold.targets.draft import Draft
from normfold.targets.facts import Spelling
from normfold.targets.lower import SPELLINGS, Options, lower
from normfold.targets.lowering import Lowering
from normfold.targets.names import Target
from normfold.targets.reasons import Cannot
from normfold.targets.site import Site
from normfold.targets.spellings.transposed import between_transposes
from normfold.targets.tables import table_of
from tests.targets import norms

P, CPU, CUDA, TRT, DML, OV = Target
S = Spelling
BESIDE = Surroundings(residual=norms.RESIDUAL)
INNER_GROUPS = norms.norm(("N", 3, 8, 4), (3,), groups=2, channel=2)  # of dimension 2


def site(norm: Norm, around: Surroundings = BESIDE, *, target: Target = CUDA, data_type: int = FLOAT) -> Site:
    return Site(norm, data_type, Draft(17), table_of(target), around)


@pytest.mark.parametrize(
    ("spelling", "norm", "key", "part"),
    [
        (S.LAYER, norms.layer_norm_2d(), "axes", "last dimensions"),
        (S.LAYER, norms.norm((2, 3), ()), "axes", "last dimensions"),
        (S.LAYER, norms.rms_norm(), "axes", "subtracts the mean"),
        (S.LAYER, norms.layer_norm(epsilon=1e39), "epsilon", "inf"),
        (S.LAYER, norms.layer_norm(epsilon=1e-60), "epsilon", "is 0"),
        (S.RMS, norms.layer_norm_2d(centred=False), "axes", "last dimensions"),
        (S.RMS, norms.layer_norm(), "axes", "does not subtract the mean"),
        (S.SIMPLIFIED, norms.layer_norm_2d(centred=False), "axes", "last dimensions"),
        (S.SIMPLIFIED, norms.layer_norm(), "axes", "does not subtract the mean"),
        (S.SKIP_LAYER, norms.rms_norm(), "axes", "SkipLayerNormalization"),
        (S.SKIP_LAYER, norms.norm((2, 3, 4), (1, 2)), "axes", "last dimension alone"),
        (S.SKIP_LAYER, norms.norm((2, 3, 4), (1,)), "axes", "last dimension alone"),
        (S.SKIP_SIMPLIFIED, norms.layer_norm(), "axes", "SkipSimplifiedLayerNormalization"),
        (S.INSTANCE, norms.layer_norm_2d(), "axes", "behind the channels"),
        (S.INSTANCE, norms.group_norm(), "axes", "behind the channels"),
        (S.INSTANCE, norms.instance_norm(centred=False), "axes", "behind the channels"),
        (S.IDIOM, norms.group_norm(centred=False), "axes", "subtracts the mean"),
        (S.IDIOM, norms.group_norm_last(), "axes", "do not lie together"),
        (S.IDIOM, INNER_GROUPS, "axes", "dimension 2"),
        (S.IDIOM_BATCH, norms.group_norm(centred=False), "axes", "subtracts the mean"),
        (S.IDIOM_BATCH, norms.group_norm(gamma=norms.numbers(1, 8, 4, 1)), "parameters", "another dimension"),
        (S.GROUP_LAYER, norms.group_norm_last(), "axes", "do not lie together"),
        (S.GROUP_WIDE, norms.group_norm(centred=False), "axes", "subtract the mean"),
        (S.GROUP, norms.group_norm(centred=False), "axes", "centred"),
        (S.GROUP, INNER_GROUPS, "axes", "dimension 1"),
        (S.GROUP, norms.norm(("N", "C", 4), (2,)), "axes", "dimension 1"),
        (S.CONTRIB_GROUP, norms.group_norm(spatial=(4,)), "rank", "rank 3"),
        (S.CONTRIB_GROUP, norms.group_norm(centred=False), "axes", "subtracts the mean"),
        (S.CONTRIB_GROUP, norms.norm(("N", 8, 4, 6), (3,), groups=2, channel=1), "axes", "[3]"),
        (S.CONTRIB_GROUP, norms.norm(("N", 8, 4, 6), (2, 3)), "axes", "[2, 3]"),
        (S.CONTRIB_GROUP, norms.norm(("N", 8, 4, 6), (1, 2), groups=2, channel=1), "axes", "[1, 2]"),
        (S.CONTRIB_GROUP, norms.group_norm(channels=12), "groups", "odd"),
        (S.SKIP_GROUP, norms.group_norm(), "surroundings", "channels last"),
    ],
)  # fmt: skip
def test_a_norm_that_the_operator_does_not_compute(spelling: Spelling, norm: Norm, key: str, part: str) -> None:
    target = TRT if spelling is S.GROUP else CUDA
    with pytest.raises(Cannot) as found:
        SPELLINGS[spelling](site(norm, target=target))
    assert found.value.key == key
    assert part in found.value.message


@pytest.mark.parametrize("spelling", [S.SKIP_LAYER, S.SKIP_SIMPLIFIED])
def test_no_addition_in_front(spelling: Spelling) -> None:
    with pytest.raises(Cannot) as found:
        SPELLINGS[spelling](site(norms.layer_norm(centred=spelling is S.SKIP_LAYER), Surroundings()))
    assert found.value.key == "surroundings"


@pytest.mark.parametrize(
    ("spelling", "norm"),
    [
        (S.SKIP_LAYER, norms.layer_norm(data_type=FLOAT16)),
        (S.SKIP_SIMPLIFIED, norms.rms_norm(data_type=FLOAT16)),
        (S.SKIP_GROUP, norms.group_norm_last(data_type=FLOAT16)),
    ],
)
def test_an_addition_in_a_narrower_type(spelling: Spelling, norm: Norm) -> None:
    SPELLINGS[spelling](site(norm, data_type=FLOAT16))
    with pytest.raises(Cannot) as found:
        SPELLINGS[spelling](site(norm))
    assert found.value.key == "element-type"


@pytest.mark.parametrize("names", [{"scale": "s"}, {"bias": "b"}, {"scale": "s", "bias": "b"}])
def test_operands_of_the_graph_are_not_transposed(names: dict[str, str]) -> None:
    norm = norms.layer_norm(gamma=None, beta=None)
    between_transposes(site(norm), SPELLINGS[S.LAYER])
    with pytest.raises(Cannot) as found:
        between_transposes(site(replace(norm, **names)), SPELLINGS[S.LAYER])
    assert found.value.key == "parameters"


def test_a_kernel_that_is_listed_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Cannot, match="cpu") as found:
        SPELLINGS[S.CONTRIB_GROUP](site(norms.group_norm(), target=CPU))
    assert found.value.key == "no-kernel"
    table = table_of(CPU)
    without = replace(
        table, kernels=tuple(replace(k, types=frozenset()) if k.operator == "Mul" else k for k in table.kernels)
    )
    monkeypatch.setattr(lowering, "table_of", lambda _: without)
    rejected = lower(norms.layer_norm_2d(), CPU, Options(17)).rejected
    assert ("elementary operators", "no-kernel") in [(r.operator, r.key) for r in rejected]


def test_an_epsilon_that_is_no_attribute_may_be_any_float64() -> None:
    choice = lower(norms.layer_norm(data_type=DOUBLE, parameter_type=DOUBLE), P, Options(17))
    assert [made.operator for made in choice.lowerings] == ["elementary operators"]


def _contrib(norm: Norm, *, silu: bool = True) -> Lowering:
    found = lower(norm, CUDA, Options(17), Surroundings(silu=silu)).lowerings
    return next(made for made in found if made.operator == "com.microsoft.GroupNorm")


@pytest.mark.parametrize(
    ("norm", "silu", "taken"),
    [
        (norms.group_norm(), True, True),
        (norms.group_norm(), False, False),
        # what varies along another dimension stands between the operator and the activation; so does a Cast
        (norms.group_norm(gamma=norms.numbers(1, 8, 4, 1)), True, False),
        (norms.group_norm(beta=norms.numbers(1, 8, 4, 1)), True, False),
        (norms.group_norm(output_type=FLOAT16), True, False),
    ],
)
def test_the_activation_goes_in_only_where_nothing_stands_in_between(norm: Norm, silu: bool, taken: bool) -> None:
    made = _contrib(norm, silu=silu)
    (node,) = [op for op in made.nodes if op.op_type == "GroupNorm"]
    assert (node.attributes["activation"], made.takes_silu) == (int(taken), taken)


def test_only_a_kernel_that_reads_pairs_wants_even_groups() -> None:
    norm = norms.group_norm(channels=12)
    table = table_of(CUDA)
    plain = replace(table, kernels=tuple(replace(kernel, even_groups=False) for kernel in table.kernels))
    SPELLINGS[S.CONTRIB_GROUP](replace(site(norm), table=plain))
    with pytest.raises(Cannot) as found:
        SPELLINGS[S.CONTRIB_GROUP](site(norm))
    assert found.value.key == "groups"
