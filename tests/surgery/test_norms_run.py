"""Norms through the whole program: what may be left out, what the gate drops, and that every run says and does the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from typer.testing import CliRunner

import normfold
from cli.app import app
from normfold import Config, Status
from normfold.targets import lower
from normfold.targets.facts import Spelling
from normfold.targets.names import Target
from normfold.targets.site import Site
from tests.model.build import run
from tests.norm.rewriting import assert_close
from tests.support import operators, random
from tests.surgery.norm_models import IMAGE, SEQUENCE, C, H, Sheet, lowered, opset_of, plan, renamed
from tests.surgery.test_norms_surroundings import images

ROOT = Path(__file__).parents[2]
Y = f"float[N,5,{H}] y"
DOUBLED = 1e-3  # epsilon of the norms that are made wrong


def tower(norms: int = 3, *, wrong: tuple[int, ...] = (), opset: int = 17) -> ModelProto:
    """LayerNorm and Relu in turns; the outputs of the norms are n0, n1, …"""
    sheet, y = Sheet(opset), "x"
    for i in range(norms):
        sheet.layer_norm(y, f"n{i}", at=f"p{i}")
        if i in wrong:
            sheet.init[f"p{i}e"] = np.float32(DOUBLED)
        sheet.add(f"r{i} = Relu(n{i})")
        y = f"r{i}"
    sheet.body[-1] = sheet.body[-1].replace(f"{y} =", "y =")
    return sheet.model(SEQUENCE)


def names_of(result: normfold.Result, code: str = "NF202") -> set[str]:
    return {d.node for d in result.report.decisions if d.code == code}


# --- what may be left out ---


def test_norms_can_be_skipped() -> None:
    model = tower(1, opset=13)
    result = normfold.optimize(model, config=Config(verify="off", skip=("NF202",)))
    assert not [d for d in result.report.decisions if d.code.startswith("NF202")]
    assert "Sqrt" in operators(result.model)
    assert opset_of(result.model) == 13


def test_norms_alone() -> None:
    """What is behind the norm goes into its scale as part of the norm; a fold of its own is left out."""
    sheet = Sheet()
    sheet.layer_norm("x", "h")
    sheet.init |= {"weight": random(H, H), "k": random(H, seed=3), "c": random(H, seed=4)}
    sheet.add("u = MatMul(h, weight)", "q = Mul(u, k)", "y = Add(q, c)")
    model = sheet.model(SEQUENCE)
    alone = normfold.optimize(model, config=Config(verify="off", only=("NF202",)))
    assert operators(alone.model) == ["LayerNormalization", "MatMul", "Mul", "Add"]
    both = normfold.optimize(model, config=Config(verify="off"))
    assert operators(both.model) == ["LayerNormalization", "MatMul", "Add"]
    others = normfold.optimize(model, config=Config(verify="off", only=("NF102",)))
    assert "LayerNormalization" not in operators(others.model)


@pytest.mark.parametrize("target", Target)
def test_an_affine_behind_a_norm_goes_into_it(target) -> None:
    sheet = Sheet()
    sheet.layer_norm("x", "h")
    sheet.init |= {"k": random(H, seed=3), "c": random(H, seed=4)}
    sheet.add("q = Mul(h, k)", "y = Add(q, c)")
    assert lowered(sheet.model(SEQUENCE), target).operators == ["LayerNormalization"]


@pytest.mark.parametrize("target", Target)
def test_a_batch_norm_behind_a_norm_goes_into_it(target) -> None:
    sheet = Sheet()
    sheet.instance_norm("x", "h")
    parameters = {
        "k": random(C, seed=3),
        "c": random(C, seed=4),
        "m": random(C, seed=5),
        "v": np.full(C, 2, np.float32),
    }
    sheet.init |= {f"bn_{name}": value for name, value in parameters.items()}
    sheet.add("y = BatchNormalization(h, bn_k, bn_c, bn_m, bn_v)")
    assert lowered(sheet.model(IMAGE), target).operators == ["InstanceNormalization"]


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.OPENVINO])
def test_a_norm_that_stays_is_not_taken_apart(target) -> None:
    """Its gamma could go into the MatMul behind it, and runtimes would not fuse what is left."""
    sheet = Sheet()
    sheet.rms_norm("x", "h")
    sheet.init["weight"] = random(H, H)
    sheet.add("y = MatMul(h, weight)")
    model = sheet.model(SEQUENCE)
    result, found = plan(model, target)
    assert result.graph == model.graph
    assert len(found.decisions) == 1, "the affines in it are spoken of with it"
    skipped, _ = plan(model, target, skip=("NF202",))
    assert skipped.graph == model.graph


# --- the gate ---


@pytest.fixture
def wrong_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms with the epsilon `DOUBLED` are written with twice of it, whatever the target's spelling."""
    epsilon: Callable[[Site], float] = Site.epsilon

    def doubled(self: Site) -> float:
        right = epsilon(self)
        return 2 * right if right == pytest.approx(DOUBLED) else right

    monkeypatch.setattr(Site, "epsilon", doubled)


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("level", ["region", "full"])
@pytest.mark.usefixtures("wrong_epsilon")
def test_a_wrong_norm_is_dropped_and_the_others_stay(tmp_path: Path, target, level: str) -> None:
    model = tower(3, wrong=(1,))
    result = normfold.optimize(model, tmp_path / "out.onnx", config=Config(verify=level, target=target))
    assert [dropped.node for dropped in result.report.dropped] == ["n1"]
    assert names_of(result) == {"n0", "n2"}
    assert names_of(result, "NF202.verification") == {"n1"}
    written = onnx.load(str(tmp_path / "out.onnx"))
    assert operators(written).count("LayerNormalization") == 2
    assert operators(written).count("Sqrt") == 1
    feed = {"x": np.random.default_rng(0).normal(size=(2, 5, H)).astype(np.float32) * np.float32(0.03)}
    assert_close(run(written, feed), run(model, feed), 1e-4)


@pytest.mark.usefixtures("wrong_epsilon")
def test_a_model_whose_only_norm_is_wrong_comes_out_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(tower(1, wrong=(0,), opset=13).SerializeToString())
    result = normfold.optimize(source, tmp_path / "out.onnx")
    assert result.report.status == "unchanged"
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes(), "the opset is not raised for nothing"


@pytest.mark.usefixtures("wrong_epsilon")
def test_what_is_wrong_is_noticed_by_verification_alone() -> None:
    """Without it the wrong norm is written, so the tests above see verification at work."""
    result = normfold.optimize(tower(1, wrong=(0,)), config=Config(verify="off"))
    assert operators(result.model)[0] == "LayerNormalization"


@pytest.mark.parametrize("culprits", [(1,), (0, 3)])
@pytest.mark.usefixtures("wrong_epsilon")
def test_the_whole_model_finds_wrong_norms(monkeypatch: pytest.MonkeyPatch, culprits: tuple[int, ...]) -> None:
    """Regions see nothing, as if their inputs had missed it; small inputs show epsilon end to end."""
    import normfold.verification as verification

    real = verification.verify_regions

    def pretend(regions, options, **rest):  # type: ignore[no-untyped-def]
        return tuple(replace(verdict, status=Status.PASS, reason="") for verdict in real(regions, options, **rest))

    monkeypatch.setattr(verification, "verify_regions", pretend)
    sheet = Sheet()
    names = []
    for i in range(4):  # side by side, so that no norm is fed by another and sees deviations of one
        sheet.layer_norm("x", f"n{i}", at=f"p{i}")
        sheet.init[f"p{i}e"] = np.float32(DOUBLED if i in culprits else 1e-5)
        names.append(f"n{i}")
    model = sheet.model(SEQUENCE, ", ".join(f"float[N,5,{H}] {name}" for name in names))
    small = np.random.default_rng(0).normal(size=(2, 5, H)).astype(np.float32) * np.float32(0.03)
    result = normfold.optimize(model, config=Config(inputs={"x": small}))
    assert {dropped.node for dropped in result.report.dropped} == {f"n{i}" for i in culprits}
    assert all("the whole model differs" in dropped.reason for dropped in result.report.dropped)
    assert names_of(result) == set(names) - {f"n{i}" for i in culprits}
    assert_close(run(result.model, {"x": small}), run(model, {"x": small}), 1e-4)


def test_a_turned_region_is_verified_by_emulation() -> None:
    result = normfold.optimize(images(3).model(IMAGE), config=Config(target=Target.ORT_CUDA))
    assert result.report.verification is not None
    assert result.report.verification.verdict.startswith("PASS (emulated: ")
    assert "com.microsoft.GroupNorm ×3" in result.report.verification.verdict
    assert "GroupNorm" in operators(result.model)


def test_a_wrong_turned_region_takes_its_second_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    build = lower.SPELLINGS[Spelling.CONTRIB_GROUP]

    def wrong(site: Site) -> str:
        return build(replace(site, norm=replace(site.norm, epsilon=0.5)))

    monkeypatch.setitem(lower.SPELLINGS, Spelling.CONTRIB_GROUP, wrong)
    result = normfold.optimize(images(3).model(IMAGE), config=Config(target=Target.ORT_CUDA))
    assert [dropped.site for dropped in result.report.dropped] == ["layout:graph"]
    assert "GroupNorm" not in operators(result.model)
    assert operators(result.model).count("InstanceNormalization") == 3


# --- every run alike ---


MODELS = {
    "layer": lambda: tower(2, opset=13),
    "images": lambda: images(3).model(IMAGE),
    "groups": lambda: images(1).model(IMAGE),
}


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("model", MODELS)
def test_a_dry_run_says_what_a_run_does(model, target) -> None:
    proto = MODELS[model]()
    config = Config(target=target, verify="off")
    dry = normfold.optimize(proto, config=config, dry_run=True).report
    wet = normfold.optimize(proto, config=config).report
    assert dry.decisions == wet.decisions
    assert dry.ops == wet.ops
    assert (dry.status, wet.status) in (("planned", "optimized"), ("planned", "unchanged"))


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ORT_CPU, Target.ORT_CUDA])
def test_regions_alone_come_to_the_same_as_the_whole_model(tmp_path: Path, target) -> None:
    proto = images(3).model(IMAGE) if target is Target.ORT_CUDA else tower(2)
    written = []
    for level in ("region", "full"):
        path = tmp_path / f"{level}.onnx"
        result = normfold.optimize(proto, path, config=Config(target=target, verify=level, metadata=False))
        assert not result.report.dropped
        written.append(path.read_bytes())
    assert written[0] == written[1]


SCRIPT = """
import hashlib, sys
import onnx, normfold
from normfold import Config
for target in normfold.Target:
    result = normfold.optimize(sys.argv[1], sys.argv[2], config=Config(target=target, verify="off"), overwrite=True)
    print(target.value, hashlib.sha256(open(sys.argv[2], "rb").read()).hexdigest())
    print([(d.code, d.message, d.nodes) for d in result.report.decisions])
"""


def test_bytes_do_not_depend_on_the_seed_of_hashes(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(renamed(images(4).model(IMAGE)), str(source))
    said = []
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "out.onnx")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout)
    assert said[0] == said[1] == said[2]


# --- what is said ---


def saved(model: ModelProto, folder: Path) -> str:
    path = folder / "m.onnx"
    onnx.save(model, str(path))
    return str(path)


def test_inspect_says_what_every_target_makes_of_a_norm() -> None:
    (norm,) = normfold.inspect(tower(1)).norms
    assert norm.meaning == "LayerNorm over the last axis, epsilon 1e-05"
    assert norm.nodes == 9
    assert norm.targets == {target.value: "LayerNormalization" for target in Target}
    assert norm.parameters["axes"] == [2]
    assert norm.parameters["gamma"][0] < norm.parameters["gamma"][1]


@pytest.mark.parametrize("norms", [1, 3])
def test_inspect_agrees_with_a_run_on_every_target(norms) -> None:
    """On ort-cuda what a norm becomes depends on its neighbours."""
    model = images(norms).model(IMAGE)
    told = {norm.node: norm.targets for norm in normfold.inspect(model).norms if norm.targets}
    assert len(told) == norms
    for target in Target:
        decisions = {d.node: d for d in plan(model, target)[1].decisions if d.rule in ("NF201", "NF202")}
        for name, targets in told.items():
            said = targets[target.value]
            if said.startswith("stays: "):
                assert decisions[name].code != "NF202"
                assert decisions[name].message.endswith(said.removeprefix("stays: "))
            else:
                assert decisions[name].code == "NF202"
                assert f" became {said};" in decisions[name].message


def test_inspect_for_people_and_for_programs(tmp_path: Path) -> None:
    path = saved(tower(2), tmp_path)
    human = CliRunner().invoke(app, ["inspect", path])
    assert human.exit_code == 0
    assert "LayerNorm over the last axis, epsilon 1e-05" in human.stdout
    assert "ort-cuda" in human.stdout
    document = CliRunner().invoke(app, ["inspect", path, "--format", "json"])
    norms = json.loads(document.stdout)["norms"]
    assert [norm["node"] for norm in norms] == ["n0", "n1"]
    assert set(norms[0]["targets"]) == {target.value for target in Target}


def test_explain_answers_for_a_target(tmp_path: Path) -> None:
    sheet = Sheet()
    sheet.rms_norm("x", "y")
    path = saved(renamed(sheet.model(SEQUENCE)), tmp_path)
    said = {
        target: json.loads(CliRunner().invoke(app, ["explain", path, "--target", target, "--format", "json"]).stdout)
        for target in ("portable", "ort-cpu", "openvino")
    }
    codes = {target: [d["code"] for d in found["decisions"]] for target, found in said.items()}
    assert codes == {
        "portable": ["NF202.opset-low"],
        "ort-cpu": ["NF202"],
        "openvino": ["NF202.left-to-target"],
    }
    inner = CliRunner().invoke(app, ["explain", path, "node/w", "--target", "ort-cpu"])
    assert "SimplifiedLayerNormalization" in inner.stdout, "a node inside of a norm is answered with the norm"
    threads = [
        CliRunner().invoke(app, ["explain", saved(images(1).model(IMAGE), tmp_path), "--target", "ort-cpu", *more])
        for more in (["--threads", "1"], [])
    ]
    assert "BatchNormalization" in threads[0].stdout
    assert "LayerNormalization of groups" in threads[1].stdout
