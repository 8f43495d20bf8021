"""Places, files and surroundings that are not as one would wish: refused in one line, or the same result as ever."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, TypeProto, helper, numpy_helper

import normfold
from normfold import Config
from normfold.errors import EnvironmentProblem, InputError, NormfoldError
from normfold.model import temporary
from normfold.model.wire import header
from tests.model import build
from tests.pipeline.builders import conv_bn, save

ROOT = Path(__file__).parents[2]
OFF = Config(verify="off")
REGION = Config(verify="region")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- places ---


@pytest.mark.parametrize("external", [False, True])
def test_a_model_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    source, out = tmp_path / "source" / "m.onnx", tmp_path / "out.onnx"
    source.parent.mkdir()
    place = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0} if external else {}
    onnx.save(conv_bn(), source, **place)

    def guarded(real, writes):  # type: ignore[no-untyped-def]
        def call(path, *rest, **named):  # type: ignore[no-untyped-def]
            inside = isinstance(path, (str, Path)) and Path(path).is_relative_to(source.parent)
            if inside and writes(*rest):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, *rest, **named)

        return call

    monkeypatch.setattr(os, "open", guarded(os.open, lambda flags, *_: flags & (os.O_WRONLY | os.O_RDWR)))
    for name in ("mkdir", "rename", "replace", "unlink", "symlink"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name), lambda *_: True))
    normfold.optimize(source, out, config=REGION)
    assert out.exists()
    with pytest.raises(NormfoldError, match="read-only file system") as caught:
        normfold.optimize(source, source.with_name("out.onnx"), config=REGION)
    assert caught.value.code == "output.unwritable"


@pytest.mark.parametrize("stage", ["folder", "region", "whole"])
def test_no_room_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """Through the Python interface too it is an error of ours, and nothing is written."""
    from normfold.verification import end_to_end, regions

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if stage == "folder":
        monkeypatch.setattr(temporary.tempfile, "mkdtemp", full)
    else:
        monkeypatch.setattr((regions if stage == "region" else end_to_end).onnx, "save", full)
        if stage == "whole":
            monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EnvironmentProblem) as caught:
        normfold.optimize(conv_bn(1), config=Config(trials=1))
    assert caught.value.code == "environment.temporary"
    assert "TMPDIR" in str(caught.value)


def test_time_says_nothing(tmp_path: Path) -> None:
    """Files of 1970 and of the future give the same bytes."""
    source = save(conv_bn(), tmp_path / "m.onnx")
    found = set()
    for at in (0, 1 << 32):
        os.utime(source, (at, at))
        normfold.optimize(source, tmp_path / "o.onnx", config=OFF)
        found.add((sha256(tmp_path / "o.onnx"), sha256(tmp_path / "o.normstats.npz")))
    assert len(found) == 1


# --- sizes ---


def sparse(path: Path, size: int) -> None:
    """Lengthen a file with nothing, which takes no room."""
    try:
        os.truncate(path, size)
    except OSError:
        pytest.skip("this file system has no files of that size")


def test_a_model_of_more_than_two_gib(tmp_path: Path) -> None:
    """It is read where it lies; only as one message in memory it is too large."""
    model = conv_bn(1)
    size = (2 << 30) + 4
    weight = TensorProto(name="big", data_type=TensorProto.UINT8, dims=[size]).SerializeToString()
    tensor = weight + header(9, size)
    graph = model.graph.SerializeToString() + header(5, len(tensor) + size) + tensor
    prefix = b"\x08\x08" + header(8, 2) + b"\x10\x11" + header(7, len(graph) + size) + graph
    path = tmp_path / "m.onnx"
    path.write_bytes(prefix)
    sparse(path, len(prefix) + size)
    assert len(normfold.inspect(path).norms) == 1
    result = normfold.optimize(path, dry_run=True, config=Config(metadata=False))
    assert [decision.code for decision in result.report.decisions] == ["NF101"]
    with pytest.raises(InputError) as caught:
        _ = result.model
    assert caught.value.code == "input.proto_2gib"


def test_a_data_file_that_claims_a_terabyte(tmp_path: Path) -> None:
    """What is read of it is what tensors lie in, and that may be at its end."""
    model = conv_bn(1)
    weight = model.graph.initializer[0]
    content, size = weight.raw_data, 1 << 40
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "m.data", "offset": str(size - len(content)), "length": str(len(content))}.items():
        weight.external_data.add(key=key, value=value)
    source = save(model, tmp_path / "m.onnx")
    (tmp_path / "m.data").write_bytes(b"")
    sparse(tmp_path / "m.data", size - len(content))
    with (tmp_path / "m.data").open("ab") as stream:
        stream.write(content)
    normfold.optimize(source, tmp_path / "o.onnx", config=REGION)
    result, plain = onnx.load(tmp_path / "o.onnx"), normfold.optimize(conv_bn(1), config=REGION).model
    for made, expected in zip(result.graph.initializer, plain.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(made), numpy_helper.to_array(expected))
    assert sum(path.stat().st_size for path in tmp_path.glob("o.*")) < 1 << 20


# --- odd graphs ---


def io(name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [2])


ODD = {
    "nothing at all": ([], [], [], {}),
    "an input that is an output": ([], [io("x")], [io("x")], {}),
    "only an identity": ([build.node("Identity", ["x"], ["y"])], [io("x")], [io("y")], {}),
    "no inputs": ([build.node("Relu", ["w"], ["y"])], [], [io("y")], {"w": np.ones(2, np.float32)}),
}


@pytest.mark.parametrize("kind", ODD)
def test_graphs_with_hardly_anything(tmp_path: Path, kind: str) -> None:
    nodes, inputs, outputs, weights = ODD[kind]
    source = save(build.net(nodes, inputs, outputs, weights), tmp_path / "m.onnx")
    normfold.optimize(source, tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == source.read_bytes()


def test_a_graph_without_outputs(tmp_path: Path) -> None:
    """Nobody can tell whether it stays the same."""
    nodes, weights = build.conv_bn("a", "x", "y")
    model = build.net(nodes, {"x": [1, 4, 5, 5]}, [], weights)
    result = normfold.optimize(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx")
    assert result.report.verification is not None
    assert result.report.verification.verdict == "INCONCLUSIVE"


def test_annotations_of_quantisation_are_kept_and_said(tmp_path: Path) -> None:
    model = conv_bn(1)
    note = model.graph.quantization_annotation.add(tensor_name="w0")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="bn0_g")
    result = normfold.optimize(save(model, tmp_path / "m.onnx"), tmp_path / "o.onnx", config=REGION)
    assert list(onnx.load(tmp_path / "o.onnx").graph.quantization_annotation) == [note]
    assert [warning for warning in result.report.warnings if "quantization_annotation" in warning]


def deep_type(depth: int) -> TypeProto:
    """A sequence of sequences of sequences."""
    made = TypeProto()
    made.tensor_type.elem_type = TensorProto.FLOAT
    for _ in range(depth):
        outer = TypeProto()
        outer.sequence_type.elem_type.CopyFrom(made)
        made = outer
    return made


@pytest.mark.parametrize("where", ["value_info", "attribute"])
@pytest.mark.parametrize("depth", [20, 48, 60])
def test_messages_inside_of_messages(tmp_path: Path, where: str, depth: int) -> None:
    """What protobuf parses here it parses to a depth of 100 and no further; deeper ones are refused."""
    model = conv_bn(1)
    if where == "value_info":
        model.graph.value_info.add(name="z").type.CopyFrom(deep_type(depth))
    else:
        model.graph.node[1].attribute.add(name="tp", type=onnx.AttributeProto.TYPE_PROTO).tp.CopyFrom(deep_type(depth))
    source = save(model, tmp_path / "m.onnx")
    if depth < 50:
        normfold.optimize(source, tmp_path / "o.onnx", config=REGION)
        return
    with pytest.raises(InputError) as caught:
        normfold.optimize(source, tmp_path / "o.onnx", config=REGION)
    assert caught.value.code == "input.malformed"
    assert "\n" not in str(caught.value)


def test_unknown_fields_inside_of_unknown_fields(tmp_path: Path) -> None:
    """They are not looked into, so their depth is nobody's problem."""
    deep = b""
    while len(deep) < 1 << 16:
        deep = header(900, len(deep)) + deep
    source = tmp_path / "m.onnx"
    source.write_bytes(conv_bn(1).SerializeToString() + deep)
    normfold.optimize(source, tmp_path / "o.onnx", config=REGION)
    assert deep in (tmp_path / "o.onnx").read_bytes()


# --- surroundings ---


def run(source: Path, out: Path, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
    plain = {**kept, "PYTHONPATH": str(ROOT)}
    line = [*before, "-m", "cli", "optimize", str(source), "-o", str(out), "--trials", "1"]
    return subprocess.run(
        line, cwd=ROOT, env=plain | environment, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_surroundings_do_not_enter_the_bytes(tmp_path: Path) -> None:
    """Another language, other hashes, other threads, asserts left out, and neither a home nor the wanted TMPDIR."""
    source = save(conv_bn(2), tmp_path / "m.onnx")
    ways = (
        ((sys.executable,), {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}),
        (
            (sys.executable, "-O"),
            {"HOME": "/nowhere", "TMPDIR": str(tmp_path / "none"), "PYTHONHASHSEED": "2", "PYTHONIOENCODING": "cp437"},
        ),
    )
    found = set()
    for before, environment in ways:
        done = run(source, tmp_path / "o.onnx", *before, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        found.add((sha256(tmp_path / "o.onnx"), sha256(tmp_path / "o.normstats.npz")))
    assert len(found) == 1


def test_without_a_network(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespaces here")
    source = save(conv_bn(1), tmp_path / "m.onnx")
    done = run(source, tmp_path / "o.onnx", unshare, "-n", sys.executable)
    assert done.returncode == 0, done.stderr
    assert "PASSED" in done.stdout


# --- locks ---


def test_a_lock_leaves_no_file_and_still_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is removed while it is held; whoever waited for that very file takes a new one."""
    from normfold.destination import lock

    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    inside: list[int] = []
    most: list[int] = []

    def turn(number: int) -> None:
        for _ in range(3):
            with lock(tmp_path / "o.onnx"):
                inside.append(number)
                time.sleep(0.001)
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(turn, range(5)))
    assert most == [1] * 15
    assert [path for path in (tmp_path / "t").rglob("*") if path.is_file()] == []
