"""No step of any operator is taken for harmless by accident."""

from __future__ import annotations

import pytest
from onnx import defs

from normfold.surgery.versions import schemas
from normfold.surgery.versions.schemas import Step, is_compatible, narrowed, steps
from normfold.surgery.versions.table import OLDEST, REVIEWED, TABLE

NEWEST = defs.onnx_opset_version()
ALL = [step for name in schemas.names() for step in steps(name, OLDEST, NEWEST)]
KNOWN = [step for step in ALL if step.old is not None]


def key(step: Step) -> tuple[str, int]:
    return step.new.name, int(step.new.since_version)


def step(op_type: str, version: int) -> Step:
    return next(item for item in ALL if key(item) == (op_type, version))


def test_the_texts_of_all_schemas_have_been_read() -> None:
    assert NEWEST <= REVIEWED, (
        f"onnx knows opset {NEWEST}: read what changed in every operator since {REVIEWED}, add what is no mere extension to "
        "TABLE, then raise REVIEWED"
    )


@pytest.mark.parametrize("item", KNOWN, ids=lambda item: f"{item.new.name}-{item.new.since_version}")
def test_every_step_is_compatible_or_has_a_rule(item: Step) -> None:
    assert key(item) in TABLE or is_compatible(item)


def test_there_are_steps() -> None:
    assert len(KNOWN) > 250
    assert {item.new.name for item in KNOWN} > {"Conv", "Relu", "Loop", "Cast", "InstanceNormalization"}


def test_every_rule_has_a_step() -> None:
    found = {key(item) for item in ALL}
    assert {entry for entry in TABLE if entry[1] <= NEWEST} <= found


def test_rules_need_not_ask_for_types() -> None:
    """`engine` asks for the types of what has no rule only."""
    assert {key(item) for item in KNOWN if key(item) in TABLE and narrowed(item)} <= {("Scan", 9)}


def test_what_takes_fewer_types_is_found() -> None:
    erf = narrowed(step("Erf", 13))
    assert set(erf) == {0}
    assert "tensor(float)" in erf[0]
    assert "tensor(int32)" not in erf[0]
    assert not narrowed(step("Relu", 13))


@pytest.mark.parametrize(
    ("op_type", "version"),
    [
        ("Softmax", 13),  # another default
        ("ReduceMean", 18),  # an attribute became an input
        ("Resize", 11),  # an input in between
        ("BatchNormalization", 14),  # fewer outputs
        ("Dropout", 10),  # another type of an output
        ("QuantizeLinear", 19),  # two inputs got one type
        ("Upsample", 10),  # deprecated
    ],
)
def test_the_comparison_sees(op_type: str, version: int) -> None:
    assert not is_compatible(step(op_type, version))


@pytest.mark.parametrize(
    ("op_type", "version"),
    [
        ("Relu", 13),
        ("Reshape", 14),
        ("Pad", 18),
        ("Gemm", 11),
        ("AveragePool", 10),
        ("DequantizeLinear", 19),
        ("Erf", 13),
    ],
)
def test_the_comparison_lets_extensions_pass(op_type: str, version: int) -> None:
    assert is_compatible(step(op_type, version))


def test_steps_are_in_order_and_complete() -> None:
    assert [int(s.new.since_version) for s in steps("Resize", 10, 22)] == [11, 13, 18, 19]
    assert [int(s.new.since_version) for s in steps("Resize", 12, 18)] == [13, 18]
    assert not list(steps("Resize", 13, 17))
    assert not list(steps("NoSuchOperator", 7, NEWEST))
    first = next(steps("LayerNormalization", 13, 17))
    assert first.old is None
    assert first.new.since_version == 17
