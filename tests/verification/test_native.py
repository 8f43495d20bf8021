"""What onnx says about a model comes from the child process: its crash, its hang and its hunger are answers too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import normfold
import normfold.verification.precision
from normfold import Config, WorkerError
from normfold.verification import Region, Status, VerifyOptions, native, runner, verify_models, verify_regions
from normfold.verification.emulation import emulate
from normfold.verification.inference import infer_types
from normfold.verification.kernels import Runtime
from normfold.verification.oracle import OracleError, evaluate
from normfold.verification.runner import Worker

from .builders import ConvBN, net

# A child of which one kind of task goes wrong, and the rest is as usual.
_BROKEN = """
import sys, types, os, signal, json
p = types.ModuleType('normfold_worker'); p.__path__ = [sys.argv[1]]; sys.modules['normfold_worker'] = p
from normfold_worker import tasks, worker
def broken(job):
    {body}
tasks._TASKS[{kind!r}] = broken
worker.main(sys.argv[2])
"""
SEGFAULT, ABORT, HUNGER, FOREVER = (
    "os.kill(os.getpid(), signal.SIGSEGV)",
    "os.abort()",
    "bytearray(1 << 50)",
    "import time; time.sleep(60)",
)


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(timeout_s=30) as one, native.answered_by(one):
        yield one


def breaking(monkeypatch: pytest.MonkeyPatch, kind: str, body: str) -> None:
    monkeypatch.setattr(runner, "_BOOTSTRAP", _BROKEN.format(kind=kind, body=body))


def model(*nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph(list(nodes), "g", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)


RELU = model(helper.make_node("Relu", ["x"], ["y"]))


def test_answers_of_the_worker_at_hand(worker: Worker, tmp_path: Path) -> None:
    inner = model(helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Neg", ["t"], ["y"]))
    assert infer_types(inner, {})["t"].dims == (2, 3)
    process = worker.process
    assert native.check(RELU) == ""
    assert "NoSuchOp" in native.check(model(helper.make_node("NoSuchOp", ["x"], ["y"])))
    onnx.save(RELU, tmp_path / "m.onnx")
    assert native.check(tmp_path / "m.onnx") == ""
    assert native.check(tmp_path / "absent.onnx") != ""
    (found,) = native.evaluate(RELU, [{"x": np.float32([[-1, 0, 1], [2, -2, 3]])}])
    assert found["y"].tolist() == [[0, 0, 1], [2, 0, 3]]
    assert found["y"].dtype == np.float32
    assert worker.process is process, "one process answers all of it"
    assert not list(worker.folder.glob("*.model")), "and leaves no file"


def test_a_question_without_a_worker_starts_one() -> None:
    assert native.check(RELU) == ""


def test_strict_inference_refuses_what_contradicts_itself(worker: Worker) -> None:
    wrong = model(helper.make_node("Reshape", ["x", "x"], ["y"]))
    assert native.infer_shapes(wrong, strict=True) is None
    assert native.infer_shapes(wrong) is not None


def test_inlining(worker: Worker) -> None:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    call = helper.make_node("F", ["x"], ["y"], domain="mine")
    inlined = native.inline_functions(model(call, functions=(function,)))
    assert inlined is not None
    assert [node.op_type for node in inlined.graph.node] == ["Relu"]


def test_evaluation_that_does_not_fit(worker: Worker) -> None:
    with pytest.raises(OracleError, match=r"(?i)matmul|shape"):
        evaluate(model(helper.make_node("MatMul", ["x", "x"], ["y"])), [{"x": np.ones((2, 3), np.float32)}])
    assert native.check(RELU) == "", "the worker goes on"


@pytest.mark.parametrize(
    ("body", "said"), [(SEGFAULT, "SIGSEGV"), (ABORT, "SIGABRT"), (HUNGER, "resource.memory"), (FOREVER, "timeout")]
)
def test_evaluation_that_ends_its_process(monkeypatch: pytest.MonkeyPatch, body: str, said: str) -> None:
    breaking(monkeypatch, "evaluate", body)
    with (
        Worker(timeout_s=2) as one,
        native.answered_by(one),
        pytest.raises(OracleError, match=said),
    ):
        evaluate(RELU, [{"x": np.ones((2, 3), np.float32)}])


@pytest.mark.parametrize(
    ("body", "code"),
    [(SEGFAULT, "worker.crashed"), (ABORT, "worker.crashed"), (HUNGER, "resource.memory"), (FOREVER, "worker.timeout")],
)
@pytest.mark.parametrize("kind", ["check", "infer"])
def test_a_whole_model_that_onnx_stumbles_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, body: str, code: str
) -> None:
    breaking(monkeypatch, kind, body)
    source = net(1)
    source.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64  # what integers mean is inferred
    onnx.save(source, tmp_path / "m.onnx")
    with pytest.raises(WorkerError) as caught:
        verify_models(tmp_path / "m.onnx", tmp_path / "m.onnx", VerifyOptions(timeout_s=2))
    assert caught.value.code == code


def test_a_region_that_onnx_stumbles_over_is_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "infer", SEGFAULT)
    verdicts = verify_regions([ConvBN(1).region(), ConvBN(2).region()], VerifyOptions(timeout_s=30))
    assert [verdict.status for verdict in verdicts] == [Status.ERROR, Status.ERROR]
    assert all("SIGSEGV" in verdict.reason for verdict in verdicts)


def test_a_float64_region_without_evaluation_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "evaluate", SEGFAULT)
    region = ConvBN(1).region()
    wide = [normfold.verification.precision.recast(side, TensorProto.DOUBLE) for side in (region.before, region.after)]
    (verdict,) = verify_regions([Region(("e",), *wide)], VerifyOptions(timeout_s=30))
    assert verdict.status is Status.INCONCLUSIVE
    assert "SIGSEGV" in verdict.reason


def test_functions_that_onnx_cannot_inline_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking(monkeypatch, "inline", "raise RuntimeError('no')")
    node = helper.make_node("GroupNorm", ["a", "s", "s"], ["b"], domain="com.microsoft", groups=1)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("mine", "F", ["a", "s"], ["b"], [node], opsets)
    call = helper.make_node("F", ["x", "x"], ["y"], domain="mine")
    found = emulate(model(call, functions=(function,)), Runtime())
    assert found.refused
    assert "inlined" in found.refused[0]


def test_the_python_interface_survives_a_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No process watches over it: the error is all that its caller sees of the crash."""
    breaking(monkeypatch, "check", SEGFAULT)
    onnx.save(net(1), tmp_path / "m.onnx")
    with pytest.raises(WorkerError, match="SIGSEGV"):
        normfold.optimize(tmp_path / "m.onnx", tmp_path / "o.onnx", config=Config(trials=1))
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]
