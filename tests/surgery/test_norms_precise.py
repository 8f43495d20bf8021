"""`precise`: no operator whose statistics lose digits, even where it is the fastest, and those that are there go."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from typer.testing import CliRunner

import normfold
from cli.app import app
from normfold import Config
from normfold.targets.names import Target
from tests.model.build import run
from tests.norm.rewriting import exact, operators
from tests.surgery.norm_models import IMAGE, SEQUENCE, Sheet
from tests.surgery.test_norm_fused import CASES

FAR = 3000.0  # the mean, where the deviation is 1


def group() -> ModelProto:
    sheet = Sheet()
    sheet.group_norm()
    return sheet.model(IMAGE)


def optimised(model: ModelProto, target: Target, *, precise: bool) -> normfold.Result:
    """Without verification, which knows only what runs here; and stable."""
    config = Config(target=target, precise=precise, verify="off")
    result = normfold.optimize(model, config=config)
    assert not normfold.optimize(result.model, config=config).changed
    return result


def codes(result: normfold.Result) -> list[str]:
    return [decision.code for decision in result.report.decisions if decision.code.startswith("NF202")]


def test_group_norm_on_the_cpu_keeps_its_digits() -> None:
    model = group()
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 6, 4, 5)) + FAR).astype(np.float32)
    errors = {}
    for precise in (False, True):
        made = optimised(model, Target.ORT_CPU, precise=precise).model
        assert operators(made)["LayerNormalization"] == 1
        assert operators(made)["Mul"] == (0 if precise else 1), "the affine goes inside, which is the precise kernel"
        wanted = exact(model, {"x": x})[0]
        errors[precise] = float(np.abs(run(made, {"x": x})[0] - wanted).max())
    assert errors[True] <= errors[False]
    assert errors[True] < 2e-4


@pytest.mark.parametrize("name", ["skip", "skip alone", "skip rms"])
@pytest.mark.parametrize("target", [Target.ORT_CPU, Target.ORT_CUDA, Target.DIRECTML])
def test_an_operator_that_adds_and_normalises_is_taken_apart(name: str, target: Target) -> None:
    model = CASES[name](np.float32, 17)
    assert not optimised(model, target, precise=False).changed
    made = optimised(model, target, precise=True)
    left = operators(made.model)
    assert left["Add"] == (1 if name.endswith("alone") else 2)
    assert not {op for op in left if op.startswith("Skip")}
    assert codes(made) == ["NF202"]


def test_group_norm_with_silu_on_cuda_is_taken_apart() -> None:
    made = optimised(CASES["group"](np.float32, 17), Target.ORT_CUDA, precise=True)
    assert "GroupNorm" not in operators(made.model)
    assert operators(made.model)["Sigmoid"] == 1
    assert "a precision bound rules out" in made.report.decisions[0].message


@pytest.mark.parametrize("target", [Target.ORT_CUDA, Target.DIRECTML])
def test_a_residual_and_its_norm_stay_two_operators(target: Target) -> None:
    sheet = Sheet()
    sheet.add("h = Add(x, z)")
    sheet.layer_norm("h", "y")
    model = sheet.model(f"{SEQUENCE}, {SEQUENCE.replace(' x', ' z')}")
    found = {precise: set(operators(optimised(model, target, precise=precise).model)) for precise in (False, True)}
    assert found == {False: {"SkipLayerNormalization"}, True: {"Add", "LayerNormalization"}}


def test_the_command_line_has_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(group(), path)
    for command in (["optimize", "--dry-run"], ["explain"]):
        said = []
        for more in ([], ["--precise"]):
            done = CliRunner().invoke(
                app, [*command, str(path), "--target", "ort-cpu", "--format", "json", *more], catch_exceptions=False
            )
            assert done.exit_code == 0
            said.append([d["message"] for d in json.loads(done.stdout)["decisions"]])
        assert "the most precise spelling" not in str(said[0])
        assert "the most precise spelling" in str(said[1])
