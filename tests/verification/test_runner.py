"""Every way in which the child can end has its code, and nothing of it reaches our streams."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from normfold.errors import WorkerError
from normfold.verification import Status, VerifyOptions, runner, verify_models, verify_regions
from normfold.verification.jobs import Job, Task
from normfold.verification.packing import PackError, read_pack, write_pack
from normfold.verification.runner import Worker

from .builders import ConvBN, net


@pytest.fixture
def job(tmp_path):
    onnx.save(net(1), tmp_path / "m.onnx")
    return Job(tmp_path / "m.onnx", [{"x": np.ones((1, 8, 5, 4), np.float32)}])


def child(body):
    """A child that reads one job (`job`, a dict) and then does `body`."""
    return (
        "import sys, json, os, signal, time, hashlib; job = json.loads(open(sys.stdin.readline().strip()).read())\n"
        "def answer(text):\n"
        "    open(job['result'] + '.part', 'w').write(text)\n"
        "    os.rename(job['result'] + '.part', job['result'])\n"
        f"{body}\n"
    )


ENDINGS = {
    "segfault": ("os.kill(os.getpid(), signal.SIGSEGV)", "worker.crashed", "SIGSEGV"),
    "abort": ("os.abort()", "worker.crashed", "SIGABRT"),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "worker.crashed", "SIGKILL (probably out of memory)"),
    "cpu": ("os.kill(os.getpid(), signal.SIGXCPU)", "worker.crashed", "SIGXCPU"),
    "silent": ("", "worker.no_result", "without a result"),
    "exit": ("raise SystemExit(3)", "worker.exception", "status 3"),
    "exception": ("raise ValueError('boom')", "worker.exception", "boom"),
    "no memory": ("raise MemoryError()", "resource.memory", "MemoryError"),
    "truncated": ("answer('abc'); time.sleep(9)", "worker.no_result", "damaged"),
    "forged": ("answer('0' * 64 + chr(10) + '{}'); time.sleep(9)", "worker.no_result", "checksum"),
    "no output": (
        "b = json.dumps({'ok': True}); answer(hashlib.sha256(b.encode()).hexdigest() + chr(10) + b); time.sleep(9)",
        "worker.no_result",
        "output",
    ),
    "memory result": (
        "b = json.dumps({'ok': False, 'stage': 'memory', 'message': 'bad_alloc'});"
        " answer(hashlib.sha256(b.encode()).hexdigest() + chr(10) + b); time.sleep(9)",
        "resource.memory",
        "memory",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_endings(job, monkeypatch, ending):
    body, code, words = ENDINGS[ending]
    monkeypatch.setattr(runner, "_BOOTSTRAP", child(body))
    with Worker(timeout_s=30) as worker, pytest.raises(WorkerError) as caught:
        worker.run(job)
    assert caught.value.code == code
    assert words in caught.value.message


def test_timeout_kills_the_whole_group(job, monkeypatch, tmp_path):
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))"
    body = f"import subprocess; p = subprocess.Popen(['sleep', '60']); {note}; time.sleep(60)"
    monkeypatch.setattr(runner, "_BOOTSTRAP", child(body))
    start = time.monotonic()
    with Worker(timeout_s=1) as worker, pytest.raises(WorkerError) as caught:
        worker.run(job)
    assert caught.value.code == "worker.timeout"
    assert time.monotonic() - start < 10
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not _running(pid):
            break
        time.sleep(0.02)
    assert not _running(pid)


def _running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_worker_serves_again_after_a_crash(job, monkeypatch):
    with Worker(timeout_s=30) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(runner, "_BOOTSTRAP", child("os.kill(os.getpid(), signal.SIGSEGV)"))
            with pytest.raises(WorkerError):
                worker.run(job)
        assert worker.run(job).ok


@pytest.mark.parametrize("isolated", [False, True])
def test_an_isolated_job_has_its_process_for_itself(job, isolated):
    with Worker(timeout_s=30, isolated=isolated) as worker:
        assert worker.run(job).ok
        alive = worker.process
        assert (alive is None) is isolated
        assert worker.run(job).ok
        assert isolated or worker.process is alive


@pytest.mark.parametrize("isolated", [False, True])
def test_an_isolated_job_is_not_run_where_another_model_was_looked_at(job, isolated):
    """What the checker stumbles over must not reach the session that is judged."""
    with Worker(timeout_s=30, isolated=isolated) as worker:
        assert worker.run(Task("check", job.model)).ok
        asked = worker.process
        assert worker.run(Task("check", job.model)).ok
        assert worker.process is asked
        with pytest.MonkeyPatch.context() as patch:
            started = []
            real = Worker._start
            patch.setattr(Worker, "_start", lambda self: started.append(1) or real(self))
            assert worker.run(job).ok
        assert len(started) == isolated


def test_crash_of_a_region_is_its_own_error(monkeypatch):
    monkeypatch.setattr(runner, "_BOOTSTRAP", child("os.kill(os.getpid(), signal.SIGSEGV)"))
    (verdict,) = verify_regions([ConvBN(1).region()], VerifyOptions(timeout_s=30))
    assert verdict.status is Status.ERROR
    assert "worker.crashed" in verdict.reason
    assert "SIGSEGV" in verdict.reason


def test_crash_of_a_model_is_an_error(job, monkeypatch):
    monkeypatch.setattr(runner, "_BOOTSTRAP", child("os.kill(os.getpid(), signal.SIGSEGV)"))
    with pytest.raises(WorkerError) as caught:
        verify_models(job.model, job.model, VerifyOptions(timeout_s=30))
    assert caught.value.code == "worker.crashed"


def test_native_memory_limit(job):
    with Worker(timeout_s=30, memory_limit_bytes=60 << 20) as worker, pytest.raises(WorkerError) as caught:
        worker.run(job)
    assert caught.value.code in ("resource.memory", "worker.exception", "worker.crashed")


def test_nothing_is_left_behind_and_nothing_is_printed(job, capfd):
    with Worker() as worker:
        folder = worker.folder
        assert worker.run(job).ok
        proc = Path(f"/proc/{worker.process.pid}")
        environment = (proc / "environ").read_bytes()
        assert b"ORT_DISABLE_TELEMETRY=1" in environment
        assert (proc / "cwd").readlink() == folder / "cwd"
        assert not list((folder / "cwd").iterdir())
        pid = worker.process.pid
    assert not folder.exists()
    assert not _running(pid)
    assert capfd.readouterr() == ("", "")


def test_refusal_is_a_result_not_an_error(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    with Worker() as worker:
        result = worker.run(Job(tmp_path / "m.onnx", [{}]))
    assert (result.ok, result.stage) == (False, "load")


def test_pack_round_trip_and_damage(tmp_path):
    path = tmp_path / "p"
    values = {
        "file": np.arange(6, dtype=np.float16).reshape(2, 3),
        "a/b": np.array(3.5),
        "e": np.zeros((0, 4), np.int64),
        "s": np.array(["ä", ""], dtype=object),
        "seq": [np.ones(2), None],
        "t": np.arange(6).reshape(2, 3).T,
        "b": np.array([True, False]),
    }
    write_pack(path, values)
    back = read_pack(path)
    assert back["seq"][1] is None
    for name in ("file", "a/b", "e", "s", "t", "b"):
        assert back[name].dtype == values[name].dtype
        np.testing.assert_array_equal(back[name], values[name])
    data = path.read_bytes()
    for broken in (data[:-1], data[:10], b"", data[:1] + bytes([data[1] ^ 1]) + data[2:]):
        path.write_bytes(broken)
        with pytest.raises(PackError):
            read_pack(path)
    path.unlink()
    with pytest.raises(PackError):
        read_pack(path)
