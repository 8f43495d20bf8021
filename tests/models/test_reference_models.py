"""Every reference model is valid, runs, holds the norms that it promises, and is the same each time it is built."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, numpy_helper
from typer.testing import CliRunner

import models
from models.__main__ import HERE, SHIPPED, app

ROOT = Path(__file__).parents[2]
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch exports this model")

# What a model must contain, bodies of If and of local functions included.
PROMISES: dict[str, dict[str, int]] = {
    "resnet": {"BatchNormalization": 6, "Conv": 6, "Add": 2},
    "mobilenet_v2": {"BatchNormalization": 11, "Conv": 11, "Clip": 8, "Add": 2},
    "preact_resnet": {"BatchNormalization": 6, "Conv": 6},
    "densenet": {"BatchNormalization": 9, "Concat": 4, "AveragePool": 1},
    "gan_generator": {"BatchNormalization": 4, "ConvTranspose": 4},
    "audio_cnn_1d": {"BatchNormalization": 7, "Conv": 5, "PRelu": 1},
    "conv3d": {"BatchNormalization": 5, "Conv": 5, "AveragePool": 1},
    "ctr_mlp": {"BatchNormalization": 3, "Gemm": 2, "MatMul": 1, "Gather": 8},
    "lstm_recogniser": {"BatchNormalization": 2, "LSTM": 1},
    "gru_recogniser": {"BatchNormalization": 3, "GRU": 2},
    "unet_groupnorm_silu": {"InstanceNormalization": 7, "Sigmoid": 7, "Resize": 1},
    "vit_block": {"LayerNormalization": 3, "Erf": 1},
    "vit_block_opset14": {"LayerNormalization": 0, "Pow": 3, "Sqrt": 3},
    "convnext_block": {"LayerNormalization": 3, "Pow": 1, "Erf": 2},
    "style_transfer": {"InstanceNormalization": 4, "BatchNormalization": 1, "Pad": 5},
    "weight_norm": {"BatchNormalization": 3, "ReduceL2": 3},
    "repvgg": {"BatchNormalization": 10, "Conv": 8, "Add": 6},
    "mlp": {"BatchNormalization": 6, "Gemm": 2, "MatMul": 2},
    "mlp_tokens": {"BatchNormalization": 2, "MatMul": 2},
    "squeeze_excite": {"BatchNormalization": 3, "Sigmoid": 2},
    "shufflenet": {"BatchNormalization": 8, "Split": 1, "Slice": 2},
    "conv_fp16": {"BatchNormalization": 3, "Conv": 3},
    "conv_fp16_float_norms": {"BatchNormalization": 3, "Conv": 3},
    "llama_block": {"Pow": 3, "ReduceMean": 3, "Softmax": 1},
    "resnet_dynamo": {"BatchNormalization": 6, "Conv": 6},
    "mobilenet_v2_dynamo": {"BatchNormalization": 11, "Conv": 11},
    "unet_groupnorm_silu_dynamo": {"GroupNormalization": 7, "Conv": 10},
    "vit_block_dynamo": {"LayerNormalization": 3},
    "llama_block_dynamo": {"RMSNormalization": 3},
    "caffe_scale": {"BatchNormalization": 2, "Mul": 4, "Add": 4, "Neg": 1},
    "nhwc_affine": {"BatchNormalization": 0, "Transpose": 4, "Reciprocal": 1, "Mul": 4},
    "if_body": {"BatchNormalization": 4, "If": 1},
    "local_function": {"BatchNormalization": 2, "ConvBnRelu": 3},
    "ir3_inputs": {"BatchNormalization": 2},
    "overridable_mean": {"BatchNormalization": 2},
    "quantised_cnn": {"BatchNormalization": 3, "QuantizeLinear": 4, "DequantizeLinear": 7, "Mul": 1},
}


def _param(name: str) -> object:
    return pytest.param(name, marks=() if name in models.TORCH_FREE else needs_torch)


every_model = pytest.mark.parametrize("name", [_param(name) for name in models.names()])


@cache
def built(name: str) -> ModelProto:
    return models.build(name)


def run(model: ModelProto, **feeds: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0].astype(np.float64)


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for attribute in node.attribute for inner in attribute.g.node]


def stored_tensors(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_every_model_has_a_promise() -> None:
    assert set(PROMISES) == set(models.BUILDERS)


@every_model
def test_passes_the_checker(name: str) -> None:
    onnx.checker.check_model(built(name), full_check=True)


@every_model
@pytest.mark.parametrize("batch", [1, 5])
def test_runs_with_finite_output_that_depends_on_the_input(name: str, batch: int) -> None:
    outputs = [run(built(name), **models.feeds(built(name), seed, batch)) for seed in (1, 2)]
    assert outputs[0].shape[0] == batch
    assert all(np.isfinite(y).all() and 0.01 < y.std() < 10 for y in outputs if y.size > 1)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


@every_model
def test_keeps_its_promises(name: str) -> None:
    counts = Counter(node.op_type for node in all_nodes(built(name)))
    assert {op: counts[op] for op in PROMISES[name]} == PROMISES[name]


@every_model
def test_every_batch_norm_is_for_inference(name: str) -> None:
    for node in all_nodes(built(name)):
        if node.op_type == "BatchNormalization":
            assert len(node.output) == 1
            assert not any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)


@every_model
def test_batch_norms_have_telling_parameters(name: str) -> None:
    stored = stored_tensors(built(name))
    for node in built(name).graph.node:
        if node.op_type == "BatchNormalization":
            mean, variance = (stored[item].astype(np.float64) for item in node.input[3:])
            assert variance.min() > 1e-4
            assert variance.std() > 0.05 * variance.mean()
            assert np.abs(mean).max() > 0.1 * np.sqrt(variance.mean())


@every_model
def test_same_seed_same_bytes_and_other_seed_other_weights(name: str) -> None:
    assert models.build(name).SerializeToString() == built(name).SerializeToString()
    if not name.endswith("_dynamo"):  # the same recipes as their namesakes, and slow to export
        assert models.build(name, seed=1).SerializeToString() != built(name).SerializeToString()


@every_model
def test_holds_no_path_of_this_machine(name: str) -> None:
    data = built(name).SerializeToString()
    for place in (sys.prefix, str(ROOT), str(Path.home())):
        assert place.encode() + b"/" not in data
    assert not re.search(rb"[\w/-]+\.py\b", data)


def test_half_precision_models_mix_types_as_they_say() -> None:
    pytest.importorskip("torch", reason="torch exports these models")
    assert _norm_types("conv_fp16") == {np.dtype("float16")}
    assert _norm_types("conv_fp16_float_norms") == {np.dtype("float32")}


def _norm_types(name: str) -> set[np.dtype]:
    stored = stored_tensors(built(name))
    norms = [node for node in built(name).graph.node if node.op_type == "BatchNormalization"]
    return {stored[item].dtype for node in norms for item in node.input[1:]}


def test_both_branches_of_the_if_are_alive() -> None:
    model = built("if_body")
    x = models.feeds(model)["x"]
    deep, flat = (run(model, x=x, deep=np.asarray(choice)) for choice in (True, False))
    assert np.abs(deep - flat).max() > 0.1


def test_the_overridable_mean_can_be_overridden() -> None:
    model = built("overridable_mean")
    feeds = models.feeds(model)
    listed = next(value.name for value in model.graph.input if value.name not in feeds)
    assert not np.allclose(run(model, **feeds), run(model, **feeds, **{listed: np.ones(8, np.float32)}))


@pytest.mark.parametrize("pair", ["resnet", "mobilenet_v2", "unet_groupnorm_silu", "vit_block", "llama_block"])
def test_both_exporters_write_the_same_network(pair: str) -> None:
    pytest.importorskip("torch", reason="torch exports these models")
    feeds = models.feeds(built(pair))
    np.testing.assert_allclose(run(built(pair), **feeds), run(built(f"{pair}_dynamo"), **feeds), atol=1e-4)


def test_needs_no_torch_to_import_or_to_write_the_written_ones() -> None:
    code = "import sys; sys.modules['torch'] = None; import models; [models.build(n) for n in models.TORCH_FREE]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"no reference model 'resnot'; known: resnet, "):
        models.build("resnot")


@pytest.mark.parametrize("file", SHIPPED)
def test_the_shipped_file_is_a_small_portable_model(file: str) -> None:
    path = HERE / file
    model = onnx.load(path)
    assert path.stat().st_size < 1_000_000
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert np.isfinite(run(model, **models.feeds(model))).all()


@pytest.mark.parametrize("file", SHIPPED)
def test_the_shipped_file_is_what_the_builder_writes(file: str) -> None:
    """Compare structure and numbers, not bytes: torch's version and the processor's rounding may differ."""
    pytest.importorskip("torch", reason="torch exports this model")
    committed, fresh = onnx.load(HERE / file), built(SHIPPED[file])
    assert [node.op_type for node in committed.graph.node] == [node.op_type for node in fresh.graph.node]
    feeds = models.feeds(committed)
    np.testing.assert_allclose(run(committed, **feeds), run(fresh, **feeds), atol=1e-4)


def test_cli_lists_the_names() -> None:
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0
    assert result.output.split() == models.names()


def test_cli_builds_a_file(tmp_path: Path) -> None:
    target = tmp_path / "m.onnx"
    result = CliRunner().invoke(app, ["build", "nhwc_affine", "-o", str(target), "--seed", "3"])
    assert result.exit_code == 0
    assert onnx.load(target) == models.build("nhwc_affine", 3)


def test_cli_refuses_an_unknown_name(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["build", "resnot", "-o", str(tmp_path / "m.onnx")])
    assert result.exit_code == 2
