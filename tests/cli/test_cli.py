"""The command line: exit codes, streams, mistakes, and names that want to be more than names."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from cli import app as program
from cli.options import TargetName
from cli.plain import plain
from tests.affine.test_affine_unit_channel import block

ROOT = Path(__file__).parents[2]


def model(blocks: int = 2, names: tuple[str, ...] = ("bn0", "bn1")) -> ModelProto:
    """Conv, BatchNormalization, Relu; the last BatchNormalization is followed by nothing that could be refused."""
    nodes, tensors, last = [], [], "x"
    rng = np.random.default_rng(0)
    for i in range(blocks):
        shape = (4, 3 if i == 0 else 4, 1, 1)
        values = {f"w{i}": rng.normal(size=shape), f"g{i}": rng.uniform(0.5, 1.5, 4), f"b{i}": rng.normal(size=4)}
        values |= {f"m{i}": rng.normal(size=4), f"v{i}": rng.uniform(0.5, 1.5, 4)}
        tensors += [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
        out = "y" if i == blocks - 1 else f"r{i}"
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], f"conv{i}"),
            helper.make_node(
                "BatchNormalization", [f"c{i}", f"g{i}", f"b{i}", f"m{i}", f"v{i}"], [f"n{i}"], names[i % 2]
            ),
            helper.make_node("Relu", [f"n{i}"], [out], f"relu{i}"),
        ]
        last = out
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c, 4, 4]) for n, c in (("x", 3), ("y", 4))]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    return path


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


class Runner:
    """`main` in this process: the same way out as in a shell, without the start-up time."""

    def __init__(self, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capture = capture
        self.monkeypatch = monkeypatch

    def __call__(self, *arguments: str | Path) -> Done:
        self.monkeypatch.setattr(sys, "argv", ["normfold", *map(str, arguments)])
        self.capture.readouterr()
        with pytest.raises(SystemExit) as stop:
            program.main()
        found = self.capture.readouterr()
        assert "Traceback" not in found.out + found.err
        return Done(int(stop.value.code or 0), found.out, found.err)


@pytest.fixture
def normfold(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    yield Runner(capfd, monkeypatch)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    gc.enable()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def shell(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False, **options)


# --- the main job ---


def test_the_shortest_command_line(normfold: Runner, source: Path) -> None:
    done = normfold("optimize", source)
    assert done.code == 0
    assert done.err == ""
    assert files(source.parent) == ["m.normfold.normstats.npz", "m.normfold.onnx", "m.onnx"]
    for word in ("BatchNormalization", "NF101", "×2", "PASSED", "m.normfold.onnx"):
        assert word in done.out
    written = onnx.load(str(source.with_name("m.normfold.onnx")))
    assert [node.op_type for node in written.graph.node] == ["Conv", "Relu"] * 2


def test_as_a_process(source: Path) -> None:
    done = shell("optimize", source, "--format", "json")
    assert done.returncode == 0
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert (report["status"], report["command"], report["verification"]["verdict"]) == ("optimized", "optimize", "PASS")


def test_a_second_run_has_nothing_to_do(normfold: Runner, source: Path) -> None:
    first, second = source.with_name("a.onnx"), source.with_name("b.onnx")
    assert normfold("optimize", source, "-o", first).code == 0
    done = normfold("optimize", first, "-o", second)
    assert done.code == 0
    assert "nothing to do" in done.out
    assert first.read_bytes() == second.read_bytes()
    assert normfold("optimize", first, "--exit-nonzero-on-change", "--dry-run").code == 0


def test_the_default_name_may_be_written_again(normfold: Runner, source: Path) -> None:
    assert normfold("optimize", source, "--verify", "region").code == 0
    first = source.with_name("m.normfold.onnx").read_bytes()
    assert normfold("optimize", source, "--verify", "region").code == 0
    assert source.with_name("m.normfold.onnx").read_bytes() == first


def test_the_default_name_belongs_to_somebody_else(normfold: Runner, source: Path) -> None:
    other = source.with_name("m.normfold.onnx")
    other.write_bytes(b"precious")
    done = normfold("optimize", source, "--verify", "off")
    assert done.code == 2
    assert "--force" in done.err
    assert other.read_bytes() == b"precious"
    assert normfold("optimize", source, "--verify", "off", "--force").code == 0
    assert other.read_bytes() != b"precious"


def test_an_explicit_output_is_overwritten(normfold: Runner, source: Path) -> None:
    other = source.with_name("other.onnx")
    other.write_bytes(b"old")
    assert normfold("optimize", source, "-o", other, "--verify", "off").code == 0
    assert other.read_bytes() != b"old"


def test_in_place(normfold: Runner, source: Path) -> None:
    before = source.read_bytes()
    done = normfold("optimize", source, "-o", source)
    assert done.code == 2
    assert "--in-place" in done.err
    assert source.read_bytes() == before
    assert normfold("optimize", source, "--in-place").code == 0
    assert source.read_bytes() != before
    assert files(source.parent) == ["m.normstats.npz", "m.onnx"]


def test_a_dry_run_writes_nothing_and_lists_everything(normfold: Runner, source: Path) -> None:
    done = normfold("optimize", source, "--dry-run")
    assert done.code == 0
    assert files(source.parent) == ["m.onnx"]
    for name in ("bn0", "bn1"):
        assert re.search(rf"applied +NF101 +BatchNormalization {name}: folded into", done.out)
    assert "nothing was written" in done.out
    report = normfold("optimize", source, "--dry-run", "--format", "json").document
    assert report["status"] == "planned"
    assert [d["node"] for d in report["decisions"]] == ["bn0", "bn1"]


@pytest.mark.parametrize(
    ("level", "word", "verdict"),
    [("off", "NOT VERIFIED", "OFF"), ("region", "PASSED", "PASS"), ("full", "PASSED", "PASS")],
)
def test_levels(normfold: Runner, source: Path, level: str, word: str, verdict: str) -> None:
    done = normfold("optimize", source, "--verify", level, "-o", source.with_name("a.onnx"))
    assert done.code == 0
    assert word in done.out
    report = normfold(
        "optimize", source, "--verify", level, "-o", source.with_name("b.onnx"), "--format", "json"
    ).document
    assert report["verification"]["verdict"] == verdict


def test_skip_and_only(normfold: Runner, source: Path) -> None:
    for option, code, folded in (
        ("--skip", "NF101", 0),
        ("--only", "NF102", 0),
        ("--only", "NF101", 2),
        ("--skip", "NF102", 2),
    ):
        report = normfold("optimize", source, option, code, "--dry-run", "--format", "json").document
        codes = [d["code"] for d in report["decisions"]]
        assert codes == (["NF101"] * 2 if folded else ["NF101.user-keep"] * 2)


def test_exit_codes_for_ci(normfold: Runner, source: Path) -> None:
    out = source.with_name("out.onnx")
    assert normfold("optimize", source, "-o", out, "--exit-nonzero-on-change").code == 1
    assert out.exists(), "it is written all the same"
    assert normfold("optimize", source, "-o", out, "--exit-nonzero-on-change", "--exit-zero").code == 0
    assert normfold("optimize", out, "-o", source.with_name("again.onnx"), "--exit-nonzero-on-change").code == 0
    assert normfold("optimize", source, "--dry-run", "--exit-nonzero-on-change").code == 1
    assert normfold("optimize", source.with_name("none.onnx"), "--exit-zero").code == 2


@pytest.fixture
def wrong_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fold loses its shift."""
    from dataclasses import replace

    from normfold.affine import absorbers

    build = absorbers.build
    monkeypatch.setattr(absorbers, "build", lambda d, n, o, a: build(d, n, o, replace(a, shift=a.shift * 0)))


@pytest.mark.usefixtures("wrong_fold")
def test_the_gate_says_no(normfold: Runner, source: Path) -> None:
    out = source.with_name("out.onnx")
    done = normfold("optimize", source, "-o", out, "--all-or-nothing")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert not out.exists()
    done = normfold("optimize", source, "-o", out, "--all-or-nothing", "--format", "json")
    assert done.code == 1
    assert (done.document["status"], done.document["error"]["code"]) == ("refused", "gate.failed")
    assert done.err == ""
    assert normfold("optimize", source, "-o", out, "--all-or-nothing", "--exit-zero").code == 0
    assert files(source.parent) == ["m.onnx"]


@pytest.mark.usefixtures("wrong_fold")
def test_dropped_edits_are_shown(normfold: Runner, source: Path) -> None:
    done = normfold("optimize", source, "-o", source.with_name("out.onnx"))
    assert done.code == 0
    assert "dropped bn0" in done.out
    assert "NF101.verification" in done.out


# --- mistakes: exit code 2, one line, a document with --format json ---


def _missing(folder: Path) -> list[str]:
    return ["optimize", str(folder / "none.onnx")]


def _content(content: bytes) -> Any:
    def arguments(folder: Path) -> list[str]:
        (folder / "bad.onnx").write_bytes(content)
        return ["optimize", str(folder / "bad.onnx")]

    return arguments


def _options(*options: str) -> Any:
    return lambda folder: ["optimize", str(folder / "m.onnx"), *[o.replace("@", str(folder)) for o in options]]


def _command(*arguments: str) -> Any:
    return lambda folder: [a.replace("@", str(folder)) for a in arguments]


MISTAKES: dict[str, tuple[Any, str, str]] = {
    "missing": (_missing, "input.not_found", "no such file"),
    "directory": (_command("optimize", "@"), "input.is_directory", "directory"),
    "empty": (_content(b""), "input.empty", "empty"),
    "lfs": (_content(b"version https://git-lfs.github.com/spec/v1\n"), "input.wrong_format", "git lfs pull"),
    "html": (_content(b"<!DOCTYPE html><html>"), "input.wrong_format", "HTML"),
    "zip": (_content(b"PK\x03\x04" + bytes(50)), "input.wrong_format", "zip"),
    "tflite": (_content(bytes(4) + b"TFL3" + bytes(50)), "input.wrong_format", "TFLite"),
    "garbage": (_content(bytes(range(1, 200))), "input.malformed", ""),
    "shape": (_options("--shape", "x=axb"), "usage.shape", "x=axb"),
    "shape-twice": (_options("--shape", "x=1", "--shape", "x=2"), "usage.shape", "two shapes"),
    "shape-name": (_options("--shape", "nobody=1x3x4x4"), "", "nobody"),
    "inputs": (_options("--inputs", "x"), "usage.inputs", "name=file.npy"),
    "inputs-missing": (_options("--inputs", "x=@/none.npy"), "input.missing", "no such file"),
    "inputs-model": (_options("--inputs", "x=@/m.onnx"), "input.objects", "not a plain array"),
    "inputs-name": (_options("--inputs", "nobody=@/a.npy"), "", "nobody"),
    "tolerance": (_options("--rtol", "abc"), "usage.tolerance", "--rtol"),
    "tolerance-negative": (_options("--atol", "y:-1"), "usage.tolerance", "--atol"),
    "tolerance-nan": (_options("--atol", "nan"), "usage.tolerance", "--atol"),
    "skip": (_options("--skip", "NF999"), "usage.unknown_code", "NF101"),
    "only": (_options("--only", "BatchNorm"), "usage.unknown_code", "NF101"),
    "output-is-input": (_options("-o", "@/m.onnx"), "output.is_input", "--in-place"),
    "output-directory": (_options("-o", "@"), "output.is_directory", "model.onnx"),
    "output-nowhere": (_options("-o", "@/no/out.onnx"), "output.no_directory", "create it"),
    "rejected-is-input": (_options("--keep-rejected", "@/m.onnx"), "output.is_input", ""),
    "rejected-nowhere": (_options("--keep-rejected", "@/no/bad.onnx"), "output.no_directory", "create it"),
    "option": (_options("--fold"), "usage.arguments", "--fold"),
    "level": (_options("--verify", "some"), "usage.arguments", "region"),
    "trials": (_options("--trials", "0"), "usage.arguments", "--trials"),
    "seed": (_options("--seed", "x"), "usage.arguments", "--seed"),
    "timeout": (_options("--timeout", "0"), "usage.arguments", "--timeout"),
    "command": (_command("optimise", "@/m.onnx"), "usage.arguments", "optimise"),
    "no-model": (_command("optimize"), "usage.arguments", "MODEL"),
    "explain-node": (_command("explain", "@/m.onnx", "nobody"), "usage.no_node", "nobody"),
    "explain-missing": (_command("explain", "@/none.onnx"), "input.not_found", ""),
    "inspect-missing": (_command("inspect", "@/none.onnx"), "input.not_found", ""),
    "verify-missing": (_command("verify", "@/m.onnx", "@/none.onnx"), "input.not_found", ""),
    "verify-html": (_command("verify", "@/m.onnx", "@/page.onnx"), "input.wrong_format", ""),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_mistake(normfold: Runner, source: Path, mistake: str) -> None:
    folder = source.parent
    np.save(folder / "a.npy", np.zeros((1, 3, 4, 4), np.float32))
    (folder / "page.onnx").write_bytes(b"<!DOCTYPE html><html>")
    make, code, words = MISTAKES[mistake]
    arguments = make(folder)
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    done = normfold(*arguments)
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("normfold: ")
    assert words in done.err
    done = normfold(*arguments, "--format", "json")
    assert done.code == 2
    assert done.err == ""
    error = done.document["error"]
    assert set(error) == {"code", "message", "where", "hint"}
    assert error["code"] == code or not code
    assert re.fullmatch(r"[a-z]+\.[a-z0-9_]+", error["code"])
    assert done.document["command"] in (arguments[0], "optimize")
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_no_arguments_show_the_help(normfold: Runner) -> None:
    done = normfold()
    assert done.code == 2
    assert "optimize" in done.out
    assert done.err == ""


def test_an_internal_error_is_one_line(normfold: Runner, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold import rounds

    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(rounds, "plan_everything", broken)
    done = normfold("optimize", source)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "normfold: internal error: RuntimeError: first line second line - run again with --debug and report it"
    ]
    done = normfold("optimize", source, "--format=json")
    assert done.code == 2
    assert done.document["error"]["code"] == "internal"
    monkeypatch.setattr(sys, "argv", ["normfold", "optimize", str(source), "--debug"])
    with pytest.raises(RuntimeError):
        program.main()
    assert files(source.parent) == ["m.onnx"]


@pytest.mark.parametrize(
    ("installed", "fix"),
    [
        ((), 'pip install "normfold[cpu]"'),
        (("onnxruntime", "onnxruntime-gpu"), "pip uninstall -y onnxruntime onnxruntime-gpu"),
    ],
)
def test_the_runtime(
    normfold: Runner, source: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], fix: str
) -> None:
    from importlib import metadata

    real = metadata.version

    def version(name: str) -> str:
        if name.startswith(("onnxruntime", "ort-")):
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return "1.30.0"
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    done = normfold("optimize", source)
    assert (done.code, done.out) == (2, "")
    assert fix in done.err
    assert normfold("verify", source, source).code == 2
    assert files(source.parent) == ["m.onnx"]
    assert normfold("optimize", source, "--dry-run").code == 0
    assert normfold("explain", source).code == 0


# --- the other commands ---


def test_explain(normfold: Runner, source: Path) -> None:
    done = normfold("explain", source)
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()] == ["applied", "applied"]
    done = normfold("explain", source, "bn1")
    assert done.out.count("\n") == 1
    assert "folded into Conv 'conv1'" in done.out
    document = normfold("explain", source, "n1", "--format", "json").document
    assert [d["node"] for d in document["decisions"]] == ["bn1"]
    assert (document["command"], document["schema_version"], document["error"]) == ("explain", "1.3", None)
    assert "concerns relu0" in normfold("explain", source, "relu0").out


def test_explain_what_is_asked_for(normfold: Runner, tmp_path: Path) -> None:
    """A channel of ones is one more channel, so only --aggressive speaks of it."""
    path = tmp_path / "padded.onnx"
    onnx.save(block(), path)
    assert normfold("explain", path).out.startswith("refused")
    assert normfold("explain", path, "--aggressive").out.startswith("applied")


def test_targets(normfold: Runner) -> None:
    every = normfold("targets")
    assert (every.code, every.err) == (0, "")
    for name in TargetName:
        one = normfold("targets", name.value)
        assert one.out.startswith(f"{name.value}: ")
        assert one.out in every.out
    assert "unconfirmed on hardware" in normfold("targets", "ort-cuda").out
    assert "unconfirmed" not in normfold("targets", "ort-cpu").out
    assert "com.microsoft" not in normfold("targets", "portable").out
    (target,) = normfold("targets", "ort-cuda", "--format", "json").document["targets"]
    kernel = next(k for k in target["kernels"] if k["operator"] == "InstanceNormalization")
    assert (kernel["newest_opset"], kernel["evidence"], kernel["confirmed"]) == (21, "read in source", False)
    assert {spelling["reason_key"] for norm in target["norms"] for spelling in norm["spellings"]} == {None, "layout"}


def test_inspect(normfold: Runner, source: Path) -> None:
    done = normfold("inspect", source)
    assert done.code == 0
    assert "2 norms" in done.out
    document = normfold("inspect", source, "--format", "json").document
    assert [norm["node"] for norm in document["norms"]] == ["bn0", "bn1"]
    assert document["opsets"] == {"ai.onnx": 17}


def test_verify(normfold: Runner, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    normfold("optimize", source, "-o", out, "--verify", "off")
    done = normfold("verify", source, out)
    assert (done.code, done.err) == (0, "")
    assert "PASSED" in done.out
    bad = onnx.load(str(out))
    weight = bad.graph.initializer[0]
    values = numpy_helper.to_array(weight) * np.float32(1.1)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    (tmp_path / "bad.onnx").write_bytes(bad.SerializeToString())
    done = normfold("verify", source, tmp_path / "bad.onnx")
    assert done.code == 1
    assert "FAILED" in done.out
    done = normfold("verify", source, tmp_path / "bad.onnx", "--format", "json")
    assert done.code == 1
    assert done.document["verification"]["verdict"] == "FAIL"
    assert normfold("verify", source, tmp_path / "bad.onnx", "--rtol", "0.5", "--atol", "1").code == 0


def normed(tmp_path: Path, *, contrib: bool, channels: int = 8) -> Path:
    """GroupNorm of [N, H, W, C] in two groups, by onnxruntime's operator or by InstanceNormalization."""
    gamma, beta = np.linspace(0.5, 2, channels, dtype=np.float32), np.linspace(-1, 1, channels, dtype=np.float32)
    node, weights = helper.make_node, {"g": gamma, "b": beta}
    if contrib:
        nodes = [node("GroupNorm", ["x", "g", "b"], ["y"], "gn", domain="com.microsoft", groups=2, activation=0)]
    else:
        weights |= {"one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32), "view": np.array([0, 2, -1])}
        nodes = [
            node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
            node("Reshape", ["t", "view"], ["r"]),
            node("InstanceNormalization", ["r", "one", "zero"], ["n"]),
            node("Shape", ["t"], ["shape"]),
            node("Reshape", ["n", "shape"], ["u"]),
            node("Transpose", ["u"], ["v"], perm=[0, 2, 3, 1]),
            node("Mul", ["v", "g"], ["w"]),
            node("Add", ["w", "b"], ["y"]),
        ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "H", "W", channels]) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / f"{'contrib' if contrib else 'plain'}{channels}.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def test_a_kernel_that_did_not_run_is_named(normfold: Runner, tmp_path: Path) -> None:
    plain, contrib = normed(tmp_path, contrib=False), normed(tmp_path, contrib=True)
    done = normfold("verify", plain, contrib)
    assert done.code == 0
    assert "PASS (emulated: com.microsoft.GroupNorm ×1 - graph surgery verified, kernel not run)" in done.out
    assert "PASSED" not in done.out
    found = normfold("verify", plain, contrib, "--target", "ort-cuda", "--format", "json").document["verification"]
    assert found["emulated_ops"] == {"com.microsoft.GroupNorm": 1}
    assert (found["target_ep"], found["level_reached"]) == ("CUDAExecutionProvider", "L3 (emulated)")
    for strict, code in (((), 0), (("--strict",), 1)):
        done = normfold("verify", plain, contrib, "--require-native", *strict)
        assert done.code == code
        assert "INCONCLUSIVE" in done.out
    done = normfold(
        "verify",
        normed(tmp_path, contrib=False, channels=6),
        normed(tmp_path, contrib=True, channels=6),
        "--target",
        "ort-cuda",
    )
    assert done.code == 1
    assert "C/G = 3 is odd" in done.out


def test_improved_regions_are_shown_with_both_errors(capfd: pytest.CaptureFixture[str]) -> None:
    from cli import tables
    from normfold.gate import combine
    from normfold.report.build import verification_report
    from normfold.verification import RegionVerdict, Status, Verification

    regions = [
        RegionVerdict(("norm0",), Status.IMPROVED, error_before=4.5e-4, error_after=1.2e-4),
        RegionVerdict(("norm1",), Status.IMPROVED, error_after=2e-7),
        RegionVerdict(("fold",), Status.PASS),
    ]
    tables.verified(verification_report(combine(regions, Verification(Status.PASS, "L3"))))
    shown = capfd.readouterr().out
    assert "norm0: improved, error against float64 0.00045 before, 0.00012 after" in shown
    assert "norm1: improved, error against float64 not finite before, 2e-07 after" in shown
    assert "fold" not in shown
    assert "2 of them closer to float64 than the original; outputs change on purpose" in shown
    assert "PASS (improved)" in shown


def test_improvements_can_be_refused(normfold: Runner, source: Path) -> None:
    from normfold import Config
    from normfold.gate import options

    assert options(Config()).improve
    assert not options(Config(no_improve=True)).improve
    assert options(Config(require_native=True, target="ort-cuda")).require_native
    assert options(Config(target="ort-cuda")).target == "ort-cuda"
    assert normfold("optimize", source, "--no-improve", "--require-native").code == 0


def test_the_user_s_data_are_used(normfold: Runner, source: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(5, 3, 4, 4)).astype(np.float32))
    arguments = ["optimize", source, "-o", tmp_path / "o.onnx", "--format", "json"]
    report = normfold(*arguments, "--inputs", f"x={tmp_path / 'x.npy'}").document
    assert report["verification"]["random_inputs"] is False
    report = normfold(*arguments, "--shape", "x=7x3x4x4").document
    assert report["verification"]["random_inputs"] is True


@pytest.mark.parametrize("name", ["report", "verify", "inspect", "explain", "targets"])
def test_documents_fit_their_schema(normfold: Runner, source: Path, tmp_path: Path, name: str) -> None:
    from normfold.report import schema

    published = normfold("schema", name).document
    kind = {"report": schema.Report, "verify": schema.VerifyReport, "inspect": schema.InspectReport}
    model_class = {**kind, "explain": schema.ExplainReport, "targets": schema.TargetsReport}[name]
    assert published == model_class.model_json_schema()
    out = tmp_path / "o.onnx"
    runs = {
        "report": [["optimize", source, "-o", out], ["optimize", source, "--dry-run"], ["optimize", "none"]],
        "verify": [["verify", source, source], ["verify", source, "none"]],
        "inspect": [["inspect", source], ["inspect", "none"]],
        "explain": [["explain", source], ["explain", source, "nobody"], ["explain", "none"]],
        "targets": [["targets"], ["targets", "ort-cuda"], ["targets", "none"]],
    }
    for arguments in runs[name]:
        text = normfold(*arguments, "--format", "json").out
        document = model_class.model_validate_json(text)
        assert document.tool == "normfold"  # type: ignore[attr-defined]
        _fits(json.loads(text), published, published)


def _fits(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> None:
    """The part of JSON Schema that these documents use."""
    if "$ref" in schema:
        return _fits(value, whole["$defs"][schema["$ref"].rsplit("/", 1)[1]], whole)
    if "anyOf" in schema:
        assert any(_accepts(value, option, whole) for option in schema["anyOf"]), (value, schema)
        return None
    if "enum" in schema:
        assert value in schema["enum"]
    if "const" in schema:
        assert value == schema["const"]
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    if schema.get("type") in types:
        assert isinstance(value, types[schema["type"]])
    elif schema.get("type") == "array":
        assert isinstance(value, list)
        for item in value:
            _fits(item, schema.get("items", {}), whole)
    elif schema.get("type") == "object":
        known = schema.get("properties", {})
        assert isinstance(value, dict)
        assert set(schema.get("required", ())) <= set(value)
        for key, item in value.items():
            extra = schema.get("additionalProperties", True)
            assert key in known or extra is not False
            _fits(item, known.get(key, extra if isinstance(extra, dict) else {}), whole)
    return None


def _accepts(value: Any, schema: dict[str, Any], whole: dict[str, Any]) -> bool:
    try:
        _fits(value, schema, whole)
    except AssertionError:
        return False
    return True


def test_rule(normfold: Runner) -> None:
    catalogue = normfold("rule")
    assert catalogue.code == 0
    for code in ("NF101", "NF102", "NF201", "NF301", "NF101.shared", "NF301.kept"):
        assert code in catalogue.out
        page = normfold("rule", code)
        assert page.code == 0
        assert page.out.startswith(f"{code}: ")
    done = normfold("rule", "NF101.nonsense")
    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("command", ["optimize", "verify", "explain", "inspect", "targets", "rule", "schema", "doctor"])
def test_help(normfold: Runner, command: str) -> None:
    done = normfold(command, "--help")
    assert done.code == 0
    assert command in done.out
    assert done.err == ""


def test_version(normfold: Runner) -> None:
    from normfold import __version__

    assert normfold("--version").out == f"normfold {__version__}\n"


# --- names that want to be more than names ---

HOSTILE = {
    "markup": "[red]boo[/red]",
    "closing": "[/]",
    "link-markup": "[link=http://evil]x[/link]",
    "colour": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;owned\x07",
    "hyperlink": "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",
    "c1": "\x9b31mred",
    "bidi": "a\u202egnp.exe",
    "zero-width": "a\u200bb",
    "annotation": "\n::error::owned",
    "newline": "a\nPASSED\r\nb",
    "separator": "a\u2028b",
    "emoji-code": ":warning:",
    "long": "n" * 5000,
}
COMMANDS = {
    "optimize": ["optimize", "@", "-o", "@.out", "--verify", "region", "-v"],
    "dry-run": ["optimize", "@", "--dry-run"],
    "explain": ["explain", "@"],
    "inspect": ["inspect", "@"],
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_names_are_inert(normfold: Runner, tmp_path: Path, kind: str) -> None:
    name = HOSTILE[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(model(names=(name, "bn1")).SerializeToString())
    for command, arguments in COMMANDS.items():
        done = normfold(*[a.replace("@", str(path)) for a in arguments])
        assert done.code == 0, (command, done.err)
        _inert(done.out + done.err, command)
        if kind in ("markup", "closing", "emoji-code") and command != "inspect":
            assert name in done.out, "shown as it is"
        text = normfold(*[a.replace("@", str(path)) for a in arguments], "--format", "json")
        assert json.loads(text.out)
        assert "\x1b" not in text.out


def test_a_hostile_name_in_an_error(normfold: Runner, source: Path) -> None:
    for name in HOSTILE.values():
        done = normfold("explain", source, name)
        assert done.code == 2
        assert done.err.count("\n") == 1
        _inert(done.err, "explain")


def test_a_hostile_operator_is_inert(normfold: Runner, tmp_path: Path) -> None:
    hostile = model()
    hostile.graph.node[0].doc_string = "\x1b[31m"
    hostile.graph.node[2].op_type = "[red]\x1b[31mRelu\n::error::x"
    hostile.graph.node[2].domain = "\x1b]0;x\x07"
    hostile.opset_import.add(domain="\x1b]0;x\x07", version=1)
    path = tmp_path / "m.onnx"
    path.write_bytes(hostile.SerializeToString())
    for arguments in COMMANDS.values():
        done = normfold(*[a.replace("@", str(path)) for a in arguments])
        assert done.code in (0, 2)
        _inert(done.out + done.err, str(arguments))


def _inert(text: str, where: str) -> None:
    for line in text.split("\n"):
        assert not line.startswith("::"), where
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]", line), (
            where,
            line,
        )


def test_plain() -> None:
    assert plain("a\tb\nc") == "a b c"
    assert plain("\x1b[31m\u202e") == "�[31m�"
    assert plain("é ü 中 ✓ [x]") == "é ü 中 ✓ [x]"
    assert len(plain("n" * 9999, 100)) == 100


# --- signals and pipes ---


@pytest.mark.parametrize(
    "arguments", [["explain", "@"], ["optimize", "@", "--verify", "off"], ["targets"], ["rule"], ["schema"]]
)
def test_a_closed_pipe(source: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "cli", *[a.replace("@", str(source)) for a in arguments]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait(60) == 141
    assert error == b""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Stopped while the child process is busy: no output, no staging directory, no child."""
    path = tmp_path / "m.onnx"
    path.write_bytes(model(40, ("a", "b")).SerializeToString())
    command = [sys.executable, "-m", "cli", "optimize", str(path), "--trials", "100"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".normfold.*.tmp")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        assert process.poll() is None, "it was done before it could be stopped"
        os.kill(process.pid, number)
        out, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in error
    assert "wrote" not in out
    assert files(tmp_path) == ["m.onnx"]
