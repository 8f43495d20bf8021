"""The parent's side of the child process: starts it, feeds it jobs, reads how it ended.

| Child ends with                          | WorkerError code                               |
|------------------------------------------|------------------------------------------------|
| a valid result that says out of memory   | `resource.memory`                              |
| exit 0 and no, short or damaged result   | `worker.no_result`                             |
| exit code > 0                            | `worker.exception`                             |
| a signal                                 | `worker.crashed`, the signal is named          |
| still busy at the timeout                | `worker.timeout`, its process group is killed  |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from normfold.errors import EnvironmentProblem, WorkerError
from normfold.model.temporary import no_place, temporary_folder

from .jobs import Job, JobResult, Task
from .limits import default_limit
from .packing import PackError, read_pack, write_pack

# Running the worker as a module of `normfold` would import the whole library into the child; this gives its relative
# imports a package that consists of this folder alone.
_BOOTSTRAP = (
    "import sys, types; p = types.ModuleType('normfold_worker'); p.__path__ = [sys.argv[1]]; "
    "sys.modules['normfold_worker'] = p; from normfold_worker.worker import main; main(sys.argv[2])"
)
_Trials = list[tuple[Path, Path]]  # where the inputs of each are, and where its outputs go
_HINTS = {"SIGKILL": "probably out of memory", "SIGXCPU": "CPU time limit", "SIGXFSZ": "file size limit"}


class Worker:
    """A child process in an empty temporary folder, started on first use. Use as a context manager.

    Args:
        timeout_s: seconds that one job may take.
        memory_limit_bytes: of its address space, and of each file that it writes; None for what the machine has.
        threads: of onnxruntime.
        mapped_bytes: of files that it maps; they take addresses and no memory, and come on top of the default.
        isolated: the process ends with each job, and what onnx was asked before is not asked of the same one.

    Raises:
        EnvironmentProblem: `environment.temporary`, there is no place for its files.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 600.0,
        memory_limit_bytes: int | None = None,
        threads: int = 1,
        mapped_bytes: int = 0,
        isolated: bool = False,
    ) -> None:
        self.timeout_s, self.threads, self.isolated = timeout_s, threads, isolated
        self.memory = memory_limit_bytes or default_limit(mapped_bytes)
        self.folder = temporary_folder("normfold-verify-")
        self.process: subprocess.Popen[str] | None = None
        self.count = self.fresh = 0
        self._clean = True  # whether the process has seen no model yet
        self.providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, job: Job | Task) -> JobResult:
        """Run one job or do one task.

        Raises:
            EnvironmentProblem: onnxruntime is installed but cannot be imported; `environment.temporary`.
            WorkerError: the child crashed, timed out, ran out of memory or left no valid result.
        """
        self.count += 1
        if self.isolated and isinstance(job, Job) and not self._clean:
            self.stop()
        stem = self.folder / f"{self.count}"
        trials = [(Path(f"{stem}.in{t}"), Path(f"{stem}.out{t}")) for t in range(len(job.trials))]
        try:
            for (feeds, _), values in zip(trials, job.trials, strict=True):
                write_pack(feeds, values)
            result = self._exchange(self._request(job, stem, trials), stem)
            answer = Path(f"{stem}.answer")
            model = answer.read_bytes() if answer.exists() else b""
            outputs = tuple(read_pack(path) for _, path in trials) if result.pop("ok") else None
        except PackError as error:
            raise WorkerError("worker.no_result", f"the worker left no valid output: {error}") from error
        except OSError as error:
            self.stop()
            raise no_place(error) from None
        finally:
            if self.isolated and isinstance(job, Job):
                self.stop()
            for path in self.folder.glob(f"{stem.name}.*"):
                path.unlink(missing_ok=True)
        if outputs is not None:
            return JobResult(True, outputs, facts=result, model=model)
        if result["stage"] == "memory":
            raise WorkerError("resource.memory", "the worker ran out of memory", hint="raise the memory limit")
        if result["stage"] == "import":
            raise EnvironmentProblem(
                "runtime.broken", f"onnxruntime cannot be imported: {result['message']}", hint="reinstall it"
            )
        return JobResult(False, stage=result["stage"], message=result["message"], facts=result)

    def has(self, provider: str) -> bool:
        """Whether an execution provider works here: a session of one node is created on it, without the CPU to fall to.

        A provider library that fails to load may take the child with it; that is a no, and the next job starts another.
        """
        self.count += 1
        stem = self.folder / f"{self.count}"
        job = {"probe": provider, "cpu_s": self.timeout_s, "result": f"{stem}.result"}
        try:
            return bool(self._exchange(job, stem)["ok"])
        except WorkerError:
            return False
        finally:
            for path in self.folder.glob(f"{stem.name}.*"):
                path.unlink(missing_ok=True)

    def _request(self, job: Job | Task, stem: Path, trials: _Trials) -> dict[str, Any]:
        common = {"trials": [(str(feeds), str(outputs)) for feeds, outputs in trials], "result": f"{stem}.result"}
        if isinstance(job, Job):
            return common | _as_json(job, self)
        settings = {"task": job.kind, "strict": job.strict, "cpu_s": self.timeout_s + 60, "answer": f"{stem}.answer"}
        return common | settings | {"model": str(job.file(Path(f"{stem}.model")))}

    def _exchange(self, job: Mapping[str, Any], stem: Path) -> dict[str, Any]:
        request, answer = Path(f"{stem}.job"), Path(f"{stem}.result")
        request.write_text(json.dumps(job), "utf-8")
        process = self._alive()
        self._clean = self._clean and "probe" in job
        assert process.stdin is not None
        # A broken pipe means that the child is gone; waiting for it says how it ended.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{request}\n")
            process.stdin.flush()
        self._wait(process, answer)
        try:
            return _read_result(answer)
        except ValueError as error:
            self.stop()
            raise WorkerError("worker.no_result", f"the worker's result is damaged: {error}") from error

    def _wait(self, process: subprocess.Popen[str], answer: Path) -> None:
        deadline, pause = time.monotonic() + self.timeout_s, 0.0005
        while not answer.exists():
            ended = process.poll() is not None
            if ended and not answer.exists():
                self.stop()
                raise _ended(process.returncode, self._last_words())
            if time.monotonic() > deadline:
                self.stop()
                raise WorkerError(
                    "worker.timeout", f"the worker was still busy after {self.timeout_s:g} s", hint="raise the timeout"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _alive(self) -> subprocess.Popen[str]:
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.process = self._start()
        return self.process

    def _start(self) -> subprocess.Popen[str]:
        cwd = self.folder / "cwd"
        cwd.mkdir(exist_ok=True)
        # A signal of the system would come when the thread ends that starts the child: only the first one lasts.
        lasting = threading.current_thread() is threading.main_thread()
        limits = json.dumps({"memory": self.memory, "death_signal": lasting})
        environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.folder / "log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, str(Path(__file__).parent), limits],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env=environment,
                text=True,
                start_new_session=True,
            )

    def forget(self) -> None:
        """Make the next job create its session anew."""
        self.fresh += 1

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.folder / "log").read_text("utf-8", "replace").strip().splitlines()
            return lines[-1][:300] if lines else ""
        return ""

    def stop(self) -> None:
        """End the child and everything it started."""
        process, self.process = self.process, None
        self._clean = True
        if process is None:
            return
        if process.poll() is None:
            _kill_group(process)
        with contextlib.suppress(BrokenPipeError):
            process.communicate()


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


def _as_json(job: Job, worker: Worker) -> dict[str, Any]:
    return {
        "model": str(job.model),
        "data_dir": str(job.data_dir) if job.data_dir else None,
        "fetch": list(job.fetch) if job.fetch is not None else None,
        "optimization": job.optimization,
        "jitter": dict(job.jitter) if job.jitter else None,
        "arena": job.arena,
        "threads": worker.threads,
        "providers": list(worker.providers),
        "cpu_s": worker.timeout_s * worker.threads + 60,
        "fresh": worker.fresh,
    }


def _read_result(path: Path) -> dict[str, Any]:
    digest, _, body = path.read_text("utf-8").partition("\n")
    if hashlib.sha256(body.encode()).hexdigest() != digest:
        raise ValueError("wrong checksum")
    result: dict[str, Any] = json.loads(body)
    return result


def _ended(code: int, words: str) -> WorkerError:
    if code < 0:
        name = _signal_name(-code)
        reason = f" ({_HINTS[name]})" if name in _HINTS else ""
        return WorkerError("worker.crashed", f"the worker was ended by {name}{reason}")
    if code > 0:
        memory = "MemoryError" in words
        kind = "resource.memory" if memory else "worker.exception"
        return WorkerError(kind, f"the worker exited with status {code}: {words or 'no message'}")
    return WorkerError("worker.no_result", "the worker ended without a result")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
