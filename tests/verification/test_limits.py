"""Models that want more than a machine has: memory, time, addresses. A named reason, and nothing is written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import normfold
from normfold import Config, EnvironmentProblem, InputError, UsageError, WorkerError
from normfold.errors import NormfoldError
from normfold.model import temporary
from normfold.verification import limits, runner
from normfold.verification.jobs import Job
from normfold.verification.runner import Worker
from tests.model.build import conv_bn, net, node
from tests.support import build

HUGE = 1 << 38


def bomb(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """A Conv with its norm, and beside it something that grows when it runs."""
    body, own = conv_bn("a", "x", "t")
    return net(
        [*body, *nodes, node("ReduceSum", ["b"], ["r"], keepdims=0), node("Add", ["t", "r"], ["y"])],
        {"x": [1, 4, 5, 5]},
        ["y"],
        {**own, **weights},
    )


BOMBS = {
    "ConstantOfShape": bomb(node("ConstantOfShape", ["n"], ["b"]), n=np.int64([HUGE])),
    "Expand": bomb(node("Expand", ["one", "n"], ["b"]), one=np.float32([1]), n=np.int64([HUGE])),
    "Range": bomb(
        node("Range", ["zero", "n", "one"], ["i"]),
        node("Cast", ["i"], ["b"], to=1),
        zero=np.int64(0),
        one=np.int64(1),
        n=np.int64(HUGE),
    ),
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_memory_bombs(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(BOMBS[kind].SerializeToString())
    start = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        normfold.optimize(path, tmp_path / "o.onnx", config=Config(timeout_s=60, trials=1))
    assert caught.value.code == "resource.memory"
    assert time.monotonic() - start < 50
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def endless() -> onnx.ModelProto:
    """Counts to 2**62."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["again"]), node("Add", ["v", "v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("go", 9, []),
            helper.make_tensor_value_info("v", 1, None),
        ],
        [helper.make_tensor_value_info("again", 9, []), helper.make_tensor_value_info("w", 1, None)],
    )
    loop = node("Loop", ["n", "yes", "t"], ["y"], body=body)
    nodes, weights = conv_bn("a", "x", "t")
    return net(
        [*nodes, loop],
        {"x": [1, 4, 5, 5]},
        ["y"],
        {**weights, "n": np.int64(1 << 62), "yes": np.bool_(True)},
    )


def test_a_loop_without_end(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(endless().SerializeToString())
    with pytest.raises(WorkerError) as caught:
        normfold.optimize(path, tmp_path / "o.onnx", config=Config(timeout_s=3, trials=1))
    assert caught.value.code == "worker.timeout"
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("declared", "shape"), [("N", (1_000_000, 4, 1000, 1000)), ("N", (1 << 40, 4, 5, 5)), (1 << 40, None)]
)
def test_inputs_that_do_not_fit(tmp_path: Path, declared: int | str, shape: tuple[int, ...] | None) -> None:
    """Whether the user asks for it or the model declares it: estimated, not tried."""
    nodes, weights = conv_bn("a", "x", "y")
    model = net(nodes, {"x": [declared, 4, None, None]}, ["y"], weights)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    config = Config(shapes={"x": shape} if shape else {})
    with pytest.raises(UsageError) as caught:
        normfold.optimize(path, tmp_path / "o.onnx", config=config)
    assert caught.value.code == "resource.estimate"
    assert "--shape x=" in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


# --- the child ---


def limits_of(process: subprocess.Popen[str]) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[0] for line in lines}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model = build("y = Relu(x)", "float[2] x")
    onnx.save(model, tmp_path / "m.onnx")
    return Job(tmp_path / "m.onnx", [{"x": np.ones(2, np.float32)}])


@pytest.mark.parametrize("given", [None, 3 << 30])
def test_the_child_is_confined(job: Job, given: int | None) -> None:
    with Worker(memory_limit_bytes=given, mapped_bytes=1 << 30) as worker:
        assert worker.run(job).ok
        assert worker.process is not None
        found = limits_of(worker.process)
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        variables = Path(f"/proc/{worker.process.pid}/environ").read_bytes()
        assert "NoNewPrivs:\t1" in status
        assert b"ORT_DISABLE_TELEMETRY=1" in variables
    memory = limits.system_memory()
    assert memory is not None
    expected = given or memory + (1 << 30) + limits._ADDRESSES
    assert found["Max address space"] == found["Max file size"] == str(expected)
    assert found["Max core file size"] == "0"
    assert int(found["Max open files"]) <= 1024
    assert found["Max cpu time"] != "unlimited"


def test_the_child_does_not_outlive_its_parent(job: Job, tmp_path: Path) -> None:
    code = (
        "import os, signal, numpy\n"
        "from pathlib import Path\n"
        "from normfold.verification.jobs import Job\n"
        "from normfold.verification.runner import Worker\n"
        "worker = Worker().__enter__()\n"
        f"worker.run(Job(Path({str(job.model)!r}), [{{'x': numpy.ones(2, numpy.float32)}}]))\n"
        "print(worker.process.pid, worker.folder, flush=True)\n"
        "os.kill(worker.process.pid, signal.SIGSTOP)\n"  # it cannot even notice that its input ended
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9
    pid, folder = done.stdout.split(maxsplit=1)
    deadline = time.monotonic() + 20
    while _runs(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(int(pid))
    for item in Path(folder.strip()).rglob("*"):
        if item.is_file():
            item.unlink()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_place_for_the_files_of_the_child(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(temporary.tempfile, "mkdtemp", full)
        with pytest.raises(EnvironmentProblem) as caught:
            Worker()
        assert caught.value.code == "environment.temporary"
    with Worker() as worker, monkeypatch.context() as patch:
        patch.setattr(runner, "write_pack", full)
        with pytest.raises(EnvironmentProblem) as caught:
            worker.run(job)
        assert "TMPDIR" in str(caught.value)


def test_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(limits, "_CGROUPS", (limit,))
    assert limits.system_memory() == physical
    for text, expected in (("max\n", physical), ("1048576\n", 1048576), (str(1 << 62), physical), ("\n", physical)):
        limit.write_text(text)
        assert limits.system_memory() == expected


# --- comparing any two files ---


@pytest.mark.parametrize("side", [0, 1])
def test_verify_reads_nothing_outside_either(tmp_path: Path, side: int) -> None:
    """No runtime sees a model whose data lie elsewhere, whatever it would make of it."""
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(2, np.float32).tobytes())
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "w.data").symlink_to(secret)
    weight = onnx.TensorProto(name="w", dims=[2], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="w.data")
    bad = build("y = Add(x, w)", "float[2] x", "float[2] y", {"w": weight})
    good = build(
        "y = Add(x, w)", "float[2] x", "float[2] y", {"w": numpy_helper.from_array(np.ones(2, np.float32), "w")}
    )
    paths = [folder / "a.onnx", folder / "b.onnx"]
    for number, path in enumerate(paths):
        path.write_bytes((bad if number == side else good).SerializeToString())
    with pytest.raises(InputError) as caught:
        normfold.verify(*paths)
    assert caught.value.code == "extdata.escape"
    (folder / "w.data").unlink()
    (folder / "w.data").write_bytes(secret.read_bytes())
    assert normfold.verify(*paths).status.passed


def test_bombs_of_numpy_data(tmp_path: Path) -> None:
    """A header that claims 10**15 elements, and Python objects."""
    model = build("y = Relu(x)", "float[N] x", "float[N] y")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**15,)})
        stream.write(bytes(16))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    from normfold.verification import load_user_inputs

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 << 30, hard))
    try:
        for name in ("x", "o"):
            with pytest.raises(NormfoldError) as caught:
                load_user_inputs([f"x={tmp_path / name}.npy"])
            assert caught.value.code.startswith("input.")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_an_archive_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from normfold.verification import load_user_inputs, numpy_files

    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros(1 << 20, np.float32))
    assert path.stat().st_size < 1 << 16
    assert load_user_inputs([str(path)])["x"][0].size == 1 << 20
    monkeypatch.setattr(numpy_files, "system_memory", lambda: 1 << 22)
    with pytest.raises(InputError) as caught:
        load_user_inputs([str(path)])
    assert caught.value.code == "resource.estimate"


def test_an_archive_that_is_damaged_anywhere(tmp_path: Path) -> None:
    from normfold.verification import load_user_inputs

    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.arange(300, dtype=np.float32))
    data = path.read_bytes()
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            load_user_inputs([str(path)])
        except InputError as error:
            assert "\n" not in str(error)
