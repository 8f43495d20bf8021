"""Models that nobody in this project wrote: public models with real weights, and the fixtures of other optimisers.

The corpus lies beside the repository and is not part of it; without it these tests are skipped.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper

import normfold
from cli import app
from normfold import Config, InputError
from normfold.surgery.codes import meaning

CORPUS = Path(__file__).parents[2] / "shared" / "corpus"
REAL = sorted(CORPUS.glob("real/*/*.onnx"))
PEERS = sorted(CORPUS.glob("peer_fusion/**/*.onnx"))

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus does not lie beside this checkout")

# BatchNormalizations that stay in the real models, with the reason; all others must be gone.
LEFT = {
    "mesonet_model": {"shift-blocked": 3},  # between a Relu and a Conv that pads
    "ritnet_best_model_bs1": {"shift-blocked": 4},  # between a LeakyRelu and a Conv that pads
}
FOLDED = {
    "mesonet_model": 1,
    "ritnet_best_model_bs1": 1,
    "squeezenet_tensor_input": 1,
    "version-RFB-320": 35,
    "version-slim-320": 25,
    "gtcrn_simple": 11,
    "ch_PP-OCRv3_det_infer": 49,
    "ch_ppocr_mobile_v2.0_cls_infer": 35,
    "en_number_mobile_v2.0_rec_infer": 35,
}
# Files that are refused, with the code.
REFUSED = {
    "winmlcli_resnet_w8a8_model": "extdata.missing",  # its data file is not part of the corpus
    "gpt2_past": "graph.ssa",  # two nodes produce the value '284'; runtimes take one of them with a warning
}
# One forward pass takes many seconds: no verification.
SLOW = {"starrem_model"}
# The whole model says nothing, the regions pass.
INCONCLUSIVE = {
    "deimv2_hgnetv2_atto_coco": "moving the weights by one ulp changes this output as well",
    "squeezenet_tensor_input": "moving the weights by one ulp changes this output as well",
}
# Fixtures whose fold is right and cannot be shown to be: what verification says, and nothing is folded.
UNPROVEN = {"fuse-conv-add-mul-3d-2": "no trial gave finite, varying values"}
# Models of constant weights: what verification refuses there differs from build to build, what is planned does not.
LIGHT = {"light_resnet50": 0, "light_densenet121": 1, "light_inception_v2": 0, "light_shufflenet": 0}

# Expectations of the peers' own tests about Conv, MatMul and BatchNormalization that we do not share.
DIFFERENT = {
    # all its weights are listed as inputs, an exporter's habit: frozen by --initializers auto, kept by keep
    "ort_fusion/negative-fuse-conv-add-no-bias.onnx": "frozen",
    # the peer skips Reshape and Transpose only; an Identity is no obstacle
    "ort_fusion/fuse-matmul-bn-non-ignorable-node.onnx": "folded",
}

# Expectations of the peers' own tests about norms that we do not share: what we do instead.
NORMS_DIFFERENT = {
    # extents and parameters are unknown: X[n, 1] · Scale[h] would be larger than X
    "ort_fusion/layer_norm.onnx": "NF202.static-shape",
    "ort_fusion/layernorm_no_bias.onnx": "NF202.static-shape",
    # the mean that is subtracted is that of another tensor: the peer's result is another function
    "ort_fusion/skip_layer_norm.onnx": "no norm",
    # a LayerNorm over all axes, which the peer does not look for
    "ort_fusion/layer_norm_sub_dup.onnx": "LayerNormalization",
    # the peer takes no Cast in the middle; nothing is rounded on the way
    "ort_fusion/layer_norm_with_cast.onnx": "InstanceNormalization",
    "ort_fusion/simplified_layer_norm_with_casts.onnx": "SimplifiedLayerNormalization",
}


def expectations() -> dict[str, dict[str, str]]:
    with (CORPUS / "expectations.csv").open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def expected(path: Path) -> dict[str, str]:
    return expectations()[str(path.relative_to(CORPUS / "peer_fusion"))]


def optimise(path: Path, folder: Path, config: Config) -> tuple[normfold.Result, Path]:
    out = folder / "out.onnx"
    result = normfold.optimize(path, out, config=config)
    assert onnx.load(str(out)).graph.node
    return result, out


def interface(model: ModelProto, frozen: set[str]) -> list[bytes]:
    stored = {item.name for item in model.graph.initializer} if model.ir_version < 4 else frozen
    return [item.SerializeToString() for item in (*model.graph.input, *model.graph.output) if item.name not in stored]


def unharmed(
    path: Path, out: Path, result: normfold.Result, again: Path, target: normfold.Target = normfold.Target.PORTABLE
) -> None:
    """The same interface, every decision in the catalogue, nothing for a second run to do."""
    original, written = (onnx.load(str(item), load_external_data=False) for item in (path, out))
    frozen = {item.name for item in original.graph.input} - {item.name for item in written.graph.input}
    frozen &= {item.name for item in original.graph.initializer}
    if frozen and original.ir_version >= 4:
        assert "NF301" in {decision.code for decision in result.report.decisions}
    assert interface(written, frozen) == interface(original, frozen)
    assert all(meaning(decision.code) for decision in result.report.decisions)
    # What was dropped in the first run has nothing in the file to say so; a second run that plans it again is right.
    if not result.report.dropped:
        second = normfold.optimize(out, again, config=Config(verify="off", target=target))
        assert not second.changed
        assert again.read_bytes() == out.read_bytes()


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


# --- real models ---


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_real_model(tmp_path: Path, path: Path) -> None:
    if path.stem in REFUSED:
        with pytest.raises(InputError) as caught:
            optimise(path, tmp_path, Config())
        assert caught.value.code == REFUSED[path.stem]
        assert not list(tmp_path.iterdir())
        return
    before = path.read_bytes()
    level = "off" if path.stem in SLOW else "full"
    result, out = optimise(path, tmp_path, Config(verify=level, timeout_s=60.0, trials=2))
    assert path.read_bytes() == before
    unharmed(path, out, result, tmp_path / "again.onnx")
    norms = [d for d in result.report.decisions if d.op_type == "BatchNormalization"]
    left = Counter(d.code.removeprefix("NF101.") for d in norms if d.outcome != "applied")
    assert dict(left) == LEFT.get(path.stem, {})
    assert len(norms) - sum(left.values()) == FOLDED.get(path.stem, 0)
    assert operators(out)["BatchNormalization"] == sum(left.values())
    found = result.report.verification
    assert found is not None
    if level == "full":
        assert result.report.dropped == ()
        assert found.verdict == ("INCONCLUSIVE" if path.stem in INCONCLUSIVE else "PASS"), found.reason
        assert INCONCLUSIVE.get(path.stem, "") in found.reason


# --- fixtures of peers ---


def about_folding(row: dict[str, str]) -> bool:
    """Whether a fixture is about Conv, MatMul and BatchNormalization: the others are about norms and attention."""
    return (
        Path(row["file"]).name.startswith(("fuse-", "negative-fuse")) or row["file"] == "polygraphy/residual_block.onnx"
    )


@pytest.mark.parametrize(
    "path", [p for p in PEERS if p.stem not in LIGHT], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_fixture(tmp_path: Path, path: Path) -> None:
    row = expected(path)
    if path.stem in REFUSED:
        with pytest.raises(InputError) as caught:
            optimise(path, tmp_path, Config())
        assert caught.value.code == REFUSED[path.stem]
        return
    config = Config(timeout_s=60.0, trials=2, target=_target(path))
    result, out = optimise(path, tmp_path, config)
    unharmed(path, out, result, tmp_path / "again.onnx", config.target)
    if path.stem in UNPROVEN and result.report.dropped:
        assert [dropped.reason for dropped in result.report.dropped] == [UNPROVEN[path.stem]]
        result, out = optimise(path, tmp_path, Config(verify="off"))
    assert path.stem in UNPROVEN or result.report.dropped == ()
    found = result.report.verification
    assert found is not None
    assert found.verdict in ("PASS", "PASS (improved)", "INCONCLUSIVE", "OFF")
    old, new = operators(path), operators(out)
    if about_folding(row):
        _folding(row, path, result, old, new)
    else:
        _norms(row, result, old, new)


def _target(path: Path) -> str:
    """Fixtures about operators of onnxruntime's own are for a target that has them."""
    own = path.stem.startswith(("skip", "simplified", "layer_norm_t5")) or path.stem.endswith("skiplayernorm")
    return "ort-cpu" if own else "portable"


def _norms(row: dict[str, str], result: normfold.Result, old: Counter[str], new: Counter[str]) -> None:
    different = NORMS_DIFFERENT.get(row["file"], "")
    codes = [decision.code for decision in result.report.decisions]
    gone = [name for name in row["must_be_gone"].split() if name in old]
    if different.startswith("NF"):
        assert different in codes
        assert new == old
    elif different == "no norm":
        assert not any(code.startswith("NF202") for code in codes)
    elif different:
        assert new[different] == 1
        assert not new["ReduceMean"]
    elif row["kind"] == "must_fuse":
        assert gone
        statistics = [name for name in gone if name in ("ReduceMean", "Pow")]  # the others occur elsewhere as well
        assert not [name for name in statistics if new[name]]
        assert "NF202" in codes
    else:
        assert row["kind"] in ("already_fused", "must_not_change_semantics"), row["kind"]
        norms = {name for name in old if "Normalization" in name}
        assert all(new[name] == old[name] for name in norms)


def _folding(row: dict[str, str], path: Path, result: normfold.Result, old: Counter[str], new: Counter[str]) -> None:
    codes = [decision.code for decision in result.report.decisions]
    different = DIFFERENT.get(row["file"])
    if different == "frozen":
        assert "NF301" in codes
        kept = normfold.optimize(path, config=Config(verify="off", initializers="keep"))
        assert not kept.changed
        assert "NF102.overridable" in [decision.code for decision in kept.report.decisions] or not kept.plan.edits
    elif different == "folded":
        assert not new["BatchNormalization"]
    elif row["kind"] == "must_fuse":
        wanted = [name for name in row["must_be_gone"].split() if name in old]
        assert wanted
        assert not [name for name in wanted if new[name]]
    elif row["kind"] == "numeric_reference":
        assert not new["BatchNormalization"]
    elif row["kind"] == "must_not_fuse":
        assert new == old
    elif row["kind"] == "peer_fuses_but_model_is_illformed":
        assert new == old
        assert "NF101.ill-formed" in codes
    else:
        raise AssertionError(f"a kind that this test does not know: {row['kind']}")


def test_every_different_expectation_exists() -> None:
    assert set(DIFFERENT) <= set(expectations())
    assert {path.stem for path in PEERS} >= set(LIGHT)


# --- reference data ---


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def tensors(folder: Path, kind: str) -> list[np.ndarray]:
    return [numpy_helper.to_array(onnx.load_tensor(str(path))) for path in sorted(folder.glob(f"*{kind}_*.pb"))]


@pytest.mark.parametrize("name", list(LIGHT))
def test_light_model(tmp_path: Path, name: str) -> None:
    """Planned, applied and run on the input of the backend test that the model comes from; the output is on record."""
    folder = CORPUS / "peer_fusion" / "onnx_backend" / name
    path = folder / f"{name}.onnx"
    result, out = optimise(path, tmp_path, Config(verify="region"))
    unharmed(path, out, result, tmp_path / "again.onnx")
    assert operators(out)["BatchNormalization"] == LIGHT[name]
    model = onnx.load(str(path))
    stored = {item.name for item in model.graph.initializer}
    info = next(item for item in model.graph.input if item.name not in stored)
    shape = [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim]
    size = int(np.prod(shape))
    feeds = {info.name: (np.arange(size).reshape(shape) / size).astype(np.float32)}
    (wanted,) = tensors(folder, "output")
    np.testing.assert_allclose(run(out, feeds)[0], wanted, rtol=1e-3, atol=1e-7)


DATA_SETS = sorted(CORPUS.glob("peer_fusion/onnx_backend/*/test_data_set_0"))


@pytest.mark.parametrize("folder", DATA_SETS, ids=lambda path: path.parent.name)
def test_recorded_outputs(tmp_path: Path, folder: Path) -> None:
    _, out = optimise(folder.parent / "model.onnx", tmp_path, Config())
    model = onnx.load(str(out))
    stored = {item.name for item in model.graph.initializer}
    names = [item.name for item in model.graph.input if item.name not in stored]
    feeds = dict(zip(names, tensors(folder, "input"), strict=False))
    by_hand = "BatchNorm" in str(folder)  # onnxruntime and onnx's own evaluator begin at opset 7
    got = [_batch_norm(model, *feeds.values())] if by_hand else run(out, feeds)
    for mine, wanted in zip(got, tensors(folder, "output"), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-3, atol=1e-5)


def _batch_norm(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """A model that consists of one BatchNormalization, by its definition."""
    (node,) = model.graph.node
    values = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in model.graph.initializer}
    shape = [1, -1] + [1] * (x.ndim - 2)
    gamma, beta, mean, var = (values[name].reshape(shape) for name in node.input[1:])
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    return (x - mean) / np.sqrt(var + epsilon) * gamma + beta


RECORDED = [path for path in REAL if path.with_name(f"{path.stem}.inputs.npz").exists()]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_outputs_of_real_models(tmp_path: Path, path: Path) -> None:
    _, out = optimise(path, tmp_path, Config(verify="off"))
    with np.load(path.with_name(f"{path.stem}.inputs.npz")) as archive:
        feeds = {name: archive[name] for name in archive.files}
    names = [item.name for item in onnx.load(str(out)).graph.output]
    with np.load(path.with_name(f"{path.stem}.outputs.npz")) as archive:
        wanted = {name: archive[name] for name in archive.files}
    for name, value in zip(names, run(out, feeds), strict=True):
        if name in wanted:
            np.testing.assert_allclose(value, wanted[name], rtol=1e-3, atol=1e-4)


def test_the_sum_that_a_float16_fixture_must_give(tmp_path: Path) -> None:
    """Its constants vary along the spatial axes: the peer's test says 6.0 everywhere for an input of ones."""
    _, out = optimise(CORPUS / "peer_fusion" / "ort_fusion" / "fuse-conv-bn-add-mul-float16.onnx", tmp_path, Config())
    model = onnx.load(str(out))
    stored = {item.name for item in model.graph.initializer}
    name = next(item.name for item in model.graph.input if item.name not in stored)
    (got,) = run(out, {name: np.ones((1, 1, 3, 3), np.float16)})
    np.testing.assert_array_equal(got, np.full_like(got, 6.0))


# --- as a process ---

EVERYTHING = sorted(CORPUS.glob("**/*.onnx"))


@pytest.mark.parametrize("batch", range(8))
def test_everything_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], batch: int) -> None:
    """Every file through `inspect`, `optimize` and `optimize` again: one document each, exit code 0 or 2, nothing odd."""
    for path in EVERYTHING[batch::8]:
        refused = path.stem in REFUSED
        code, said = command(capfd, "inspect", path)
        assert (code, said["error"] is None) == ((2, False) if REFUSED.get(path.stem) == "graph.ssa" else (0, True)), (
            path
        )
        out, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
        code, said = command(capfd, "optimize", path, "-o", out, "--verify", "off")
        assert code == (2 if refused else 0), (path, said)
        assert said["status"] in (("error",) if refused else ("optimized", "unchanged")), path
        assert out.exists() is not refused
        if refused:
            assert said["error"]["code"] == REFUSED[path.stem]
            continue
        code, said = command(capfd, "optimize", out, "-o", again, "--verify", "off")
        assert (code, said["status"]) == (0, "unchanged"), path
        assert again.read_bytes() == out.read_bytes(), path
        for item in tmp_path.iterdir():
            item.unlink()


def command(capfd: pytest.CaptureFixture[str], name: str, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Exit code and document; nothing but the document is printed, by anybody."""
    capfd.readouterr()
    code = app._run([name, *map(str, arguments), "--format", "json"])
    out, error = capfd.readouterr()
    assert error == ""
    return code, json.loads(out)
