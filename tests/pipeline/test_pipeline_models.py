"""Every reference network through the whole pipeline: what must fold, what must stay and why, and that nothing else moves."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from builders import interface, run

import models
import normfold
from normfold import Config

# BatchNormalizations that stay, by reason. All others must be gone.
LEFT: dict[str, dict[str, int]] = {
    "resnet": {},
    "mobilenet_v2": {},
    # norm first: each reads a sum that the shortcut reads too, and the Conv behind it pads
    "preact_resnet": {"padded-shift": 1, "shared": 2},
    # each reads a concatenation that later layers read too, and its scales have both signs before a Relu
    "densenet": {"shared": 3},
    "gan_generator": {},
    # between a Relu and a Conv that pads
    "audio_cnn_1d": {"shift-blocked": 1},
    "conv3d": {},
    "ctr_mlp": {},
    "lstm_recogniser": {},
    "gru_recogniser": {},
    "unet_groupnorm_silu": {},
    "vit_block": {},
    "vit_block_opset14": {},
    "convnext_block": {},
    "style_transfer": {},
    "weight_norm": {},
    # the norm of an identity branch has no weights in front of it, and goes with the branches into one Conv
    "repvgg": {},
    "mlp": {},
    # channels are tokens there, the MatMul before has features
    "mlp_tokens": {"not-per-channel": 1},
    "squeeze_excite": {},
    "shufflenet": {},
    "conv_fp16": {},
    "conv_fp16_float_norms": {},
    "llama_block": {},
    "resnet_dynamo": {},
    "mobilenet_v2_dynamo": {},
    "unet_groupnorm_silu_dynamo": {},
    "vit_block_dynamo": {},
    "llama_block_dynamo": {},
    "caffe_scale": {},
    "nhwc_affine": {},
    "if_body": {},
    "ir3_inputs": {},
    "local_function": {},
    # the author lists the running mean among the inputs: it may be overridden
    "overridable_mean": {"overridable": 1},
    "quantised_cnn": {},
}
# Seconds to export; the norms of the last three are no BatchNormalization.
SLOW = {"unet_groupnorm_silu_dynamo", "vit_block_dynamo", "llama_block_dynamo"}
NORMS = ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization")


def test_the_table_is_complete() -> None:
    assert set(LEFT) == set(models.names())


@pytest.mark.parametrize("name", models.names())
def test_reference_model(tmp_path: Path, name: str) -> None:
    if name in SLOW and not os.environ.get("NORMFOLD_SLOW_TESTS"):
        pytest.skip("exporting takes long: set NORMFOLD_SLOW_TESTS")
    original = models.build(name)
    source, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    source.write_bytes(original.SerializeToString(deterministic=True))
    result = normfold.optimize(source, out)
    _kept_for_a_reason(result, name)
    report = result.report
    assert report.dropped == ()
    assert report.verification is not None
    assert report.verification.verdict in ("PASS", "PASS (improved)"), report.verification.reason
    written = onnx.load(str(out))
    onnx.checker.check_model(written, full_check=True)
    if original.ir_version >= 4:
        assert interface(written) == interface(original)
    feeds = models.feeds(original, seed=5)
    for old, new in zip(run(original, feeds), run(written, feeds), strict=True):
        limit = 2e-2 if old.dtype == np.float16 else 1e-4
        assert old.dtype == new.dtype
        np.testing.assert_allclose(old, new, rtol=limit, atol=limit * max(1.0, float(np.abs(old).max(initial=0))))
    again = normfold.optimize(out, tmp_path / "again.onnx", config=Config(verify="off"))
    assert not again.changed
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


def _kept_for_a_reason(result: normfold.Result, name: str) -> None:
    found = [d for d in result.report.decisions if d.op_type == "BatchNormalization"]
    left = Counter(d.code.removeprefix("NF101.") for d in found if d.outcome != "applied")
    assert dict(left) == LEFT[name], [(d.node, d.code, d.message) for d in found]
    ops = {op.op_type: op for op in result.report.ops}
    assert sum(left.values()) == (ops["BatchNormalization"].after if "BatchNormalization" in ops else 0)
    for norm in NORMS:
        if norm in ops:
            assert ops[norm].before <= ops[norm].after, "a norm with statistics of its input is no affine"


def test_weight_normalisation_goes_with_the_norms(tmp_path: Path) -> None:
    original = models.build("weight_norm")
    source, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    source.write_bytes(original.SerializeToString(deterministic=True))
    normfold.optimize(source, out)
    left = Counter(node.op_type for node in onnx.load(str(out)).graph.node)
    assert left == {"Conv": 2, "Relu": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    kept = normfold.optimize(source, out, config=Config(skip=("NF101",)))
    assert not kept.changed
    assert out.read_bytes() == source.read_bytes()


def test_runtimes_find_integer_kernels_once_the_norms_are_gone(tmp_path: Path) -> None:
    """A BatchNormalization between a Conv and a QuantizeLinear keeps them from becoming one operator of integers."""
    source, out, fused = (tmp_path / name for name in ("m.onnx", "out.onnx", "fused.onnx"))
    source.write_bytes(models.build("quantised_cnn").SerializeToString(deterministic=True))
    normfold.optimize(source, out)
    found = []
    for path in (source, out):
        options = ort.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(fused), 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        kernels = Counter(node.op_type for node in onnx.load(str(fused)).graph.node)
        found.append(
            (kernels["QLinearConv"], session.run(None, models.feeds(models.build("quantised_cnn"), seed=5))[0])
        )
    (none, old), (some, new) = found
    assert (none, some) == (0, 2)
    np.testing.assert_allclose(old, new, atol=5e-3)


@pytest.mark.parametrize("name", sorted(models.TORCH_FREE))
@pytest.mark.parametrize("level", ["off", "region"])
def test_verification_does_not_change_what_is_written(tmp_path: Path, name: str, level: str) -> None:
    if (name, level) == ("local_function", "region"):
        pytest.skip("inside of a function nothing has a shape: its regions rest on the whole model")
    model = models.build(name)
    normfold.optimize(model, tmp_path / "a.onnx")
    normfold.optimize(model, tmp_path / "b.onnx", config=Config(verify=level))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("name", sorted(models.TORCH_FREE))
def test_a_dry_run_says_what_a_run_does(name: str) -> None:
    model = models.build(name)
    planned = normfold.optimize(model, dry_run=True).report
    done = normfold.optimize(model, config=Config(verify="off")).report
    assert planned.decisions == done.decisions
    assert planned.ops == done.ops
