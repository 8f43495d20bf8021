"""However the process that works ends: one line or one document, an exit code, nothing half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from cli import app, entry
from tests.cli.test_cli import files, model

ROOT = Path(__file__).parents[2]
START = "import os, signal, sys, time\nsys.argv = ['normfold', *{arguments!r}]\nfrom cli import app, entry\n"


def start(body: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """The command line, with something in the way of the process that works."""
    code = START.format(arguments=arguments) + body + "\nentry.main()\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)  # type: ignore[call-overload]


def ended(body: str, *arguments: str) -> tuple[int, str, str]:
    with start(body, *arguments) as process:
        out, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    return process.returncode, out, error


def dying(number: int) -> str:
    return f"app.main = lambda: os.kill(os.getpid(), {number})"


DEATHS = {
    signal.SIGBUS: "cut short",
    signal.SIGSEGV: "native library",
    signal.SIGABRT: "native library",
    signal.SIGKILL: "out of memory",
    signal.SIGXCPU: "processor time",
}


@pytest.mark.parametrize("number", list(DEATHS))
def test_a_death_is_said(number: signal.Signals) -> None:
    code, out, error = ended(dying(number), "optimize", "m.onnx")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert f"ended by {number.name}" in error
    assert DEATHS[number] in error


def test_a_death_is_one_document() -> None:
    code, out, error = ended(dying(signal.SIGSEGV), "optimize", "m.onnx", "--format", "json")
    assert (code, error) == (2, "")
    found = json.loads(out)
    assert found["status"] == "error"
    assert found["error"]["code"] == "process.crashed"


@pytest.mark.parametrize(("number", "code"), [(15, 143), (1, 129), (2, 130), (13, 141)])
def test_an_end_that_was_asked_for_before_it_could_be_answered(number: int, code: int) -> None:
    body = f"app.main = lambda: (signal.signal({number}, signal.SIG_DFL), os.kill(os.getpid(), {number}))"
    assert ended(body) == (code, "", "")


@pytest.mark.parametrize("code", [0, 1, 2, 141])
def test_an_exit_code_goes_through(code: int) -> None:
    assert ended(f"app.main = lambda: sys.exit({code})") == (code, "", "")


@pytest.mark.parametrize("code", [0, 1])
def test_a_library_that_ends_the_process_says_nothing_with_its_status(code: int) -> None:
    """OpenBLAS ends with 1 where it gets no memory, and 1 is what the gate says."""
    form = ["--format=json"] if code else []
    found, out, error = ended(f"app.main = lambda: os._exit({code})", "optimize", "m.onnx", *form)
    assert found == 2
    words = json.loads(out)["error"]["message"] if code else error
    assert f"a library ended the process with status {code}" in words
    assert (error.count("\n"), out) == (1, "") or (code and not error)


BROKEN = "def broken(): raise ImportError('no room to map\\nlib.so')\n"


@pytest.mark.parametrize("body", [f"{BROKEN}app.main = broken", f"{BROKEN}entry._end_with = lambda _: broken()"])
def test_what_goes_wrong_before_anybody_can_say_it_is_one_line(body: str) -> None:
    code, out, error = ended(body, "optimize", "m.onnx")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert "ImportError: no room to map lib.so" in error


def test_a_traceback_for_whoever_wants_one() -> None:
    with start(f"{BROKEN}app.main = broken", "optimize", "m.onnx", "--debug") as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in error


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to the limit")
@pytest.mark.parametrize("mib", [20, 100, 200])
def test_hardly_any_memory(tmp_path: Path, mib: int) -> None:
    """Whatever runs out first, a thread, a library or the interpreter itself: exit code 2 and no traceback."""
    (tmp_path / "m.onnx").write_bytes(model().SerializeToString())
    command = f"ulimit -v {mib << 10}; exec {sys.executable} -m cli optimize {tmp_path / 'm.onnx'}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "normfold: " in done.stderr
    assert "Traceback" not in done.stderr
    assert files(tmp_path) == ["m.onnx"]


def large(folder: Path) -> Path:
    """A model whose weights are mapped, in a file of their own."""
    made = model(1, ("a", "b"))
    weight = made.graph.initializer[0]
    name = made.graph.initializer[0].name
    assert name == "w0"
    weight.CopyFrom(onnx.helper.make_tensor("w0", 1, [1 << 20, 3, 1, 1], bytes(12 << 20), raw=True))
    for tensor in made.graph.initializer[1:]:
        tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, 1, [1 << 20], b"\0\0\x80\x3f" * (1 << 20), raw=True))
    onnx.save(made, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1024)
    return folder / "m.onnx"


def test_data_that_are_cut_short_while_they_are_read(tmp_path: Path) -> None:
    """A mapping of what is not there any more: the system ends the process, and the shell hears why."""
    path = large(tmp_path)
    body = (
        "from normfold import pipeline\n"
        "real = pipeline.Rounds.verified\n"
        "def cut(self, *rest):\n"
        "    next(self.model.external()).raw()\n"
        f"    os.truncate({str(tmp_path / 'm.data')!r}, 4096)\n"
        "    return real(self, *rest)\n"
        "pipeline.Rounds.verified = cut"
    )
    code, out, error = ended(body, "optimize", str(path), "--verify", "off")
    assert (code, out) == (2, "")
    assert "cut short" in error
    assert not (tmp_path / "m.normfold.onnx").exists()


# --- signals ---


def busy(folder: Path, wrapper: str = "", **options: object) -> subprocess.Popen[str]:
    """An optimization that takes its time, as soon as it has begun to write."""
    path = folder / "m.onnx"
    path.write_bytes(model(40, ("a", "b")).SerializeToString())
    process = start(wrapper, "optimize", str(path), "--trials", "100", **options)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".normfold.*.tmp")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    assert process.poll() is None, "it was done before it could be stopped"
    return process


def quiet(folder: Path) -> bool:
    """Whether everything is cleaned up, soon."""
    deadline = time.monotonic() + 30
    while files(folder) != ["m.onnx"] and time.monotonic() < deadline:
        time.sleep(0.02)
    return files(folder) == ["m.onnx"]


def test_whoever_kills_what_he_sees_kills_all_of_it(tmp_path: Path) -> None:
    with busy(tmp_path) as process:
        process.kill()
        process.communicate(timeout=60)
    assert quiet(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_impatience_does_not_disturb_cleaning_up(tmp_path: Path, number: signal.Signals) -> None:
    with busy(tmp_path, start_new_session=True) as process:
        for _ in range(5):
            os.killpg(process.pid, number)  # as a terminal does: everybody hears it
        _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in error
    assert quiet(tmp_path)


def test_nohup_is_respected(tmp_path: Path) -> None:
    with busy(tmp_path, "signal.signal(signal.SIGHUP, signal.SIG_IGN)") as process:
        os.kill(process.pid, signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 143


# --- what the system refuses ---


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "resource.memory"),
        (OSError(28, "No space left on device", "/tmp/x"), "environment.system"),
        (FileNotFoundError(2, "No usable temporary directory found"), "environment.system"),
        (ImportError("failed to map segment from shared object"), "environment.import"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", refuse)
    assert app._run(["optimize", "m.onnx", "--format", "json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_without_fork_it_just_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    monkeypatch.setattr(app, "main", lambda: sys.exit(7))
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 7
