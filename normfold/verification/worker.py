"""The child process: runs onnxruntime sessions and the native code of onnx, writes what came out. It judges nothing.

It serves job files named on its standard input, one session at a time, and leaves one checksummed result file per
job. Import only the standard library, numpy and, late, onnxruntime and onnx: start-up time is paid by every run.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from .packing import read_pack, write_pack

_PARENT_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38  # PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS of <linux/prctl.h>
_PARENT_SECONDS = 0.5  # between two looks whether the parent is alive
_OUT_OF_MEMORY = (
    "bad_alloc", "failed to allocate memory", "out of memory", "cannot allocate memory", "failed to map segment",
)  # fmt: skip


def main(limits: str) -> None:
    """Serve jobs until standard input ends. `limits` is JSON: {"memory": bytes or null}."""
    _confine(json.loads(limits))
    server = _Server()
    for line in sys.stdin:
        server.serve(Path(line.rstrip("\n")))


class _Server:
    """Holds at most one session, so that a retry with other inputs does not load the model again."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.stage = "import"
        self.session: Any = None
        self.facts: dict[str, Any] = {}
        self.keep: list[Any] = []

    def serve(self, job_file: Path) -> None:
        job = json.loads(job_file.read_text("utf-8"))
        _limit_cpu(float(job["cpu_s"]))
        self.stage = "import"
        try:
            result = {"ok": True, **self._answer(job)}
        except MemoryError as error:
            result = _failure("memory", error)
        except Exception as error:
            memory = any(word in str(error).lower() for word in _OUT_OF_MEMORY)
            result = _failure("memory" if memory else self.stage, error)
        _write_result(Path(job["result"]), result)

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        if "task" in job:
            self.stage = "run"
            from .tasks import perform

            return perform(job)
        import onnxruntime  # noqa: F401  one that does not import is a fault of the installation, not of the model

        self.stage = "load"
        if "probe" in job:
            return {"ok": _works(job["probe"])}
        self._open(job)
        self.stage = "run"
        for feeds, outputs in job["trials"]:
            self._run(job, Path(feeds), Path(outputs))
        return self.facts

    def _open(self, job: dict[str, Any]) -> None:
        parts = ("model", "data_dir", "optimization", "threads", "providers", "jitter", "arena", "fresh")
        key = json.dumps([job[part] for part in parts])
        if key == self.key:
            return
        self.key = self.session = None
        self.keep = []
        gc.collect()
        self.session, self.facts, self.keep = _session(job)
        self.key = key

    def _run(self, job: dict[str, Any], feeds_file: Path, outputs_file: Path) -> None:
        feeds = read_pack(feeds_file)
        fetch = job["fetch"] or [output.name for output in self.session.get_outputs()]
        expected = {entry.name: entry.type for entry in self.session.get_inputs()}
        values = self.session.run(fetch, {name: feeds[name] for name in feeds if name in expected})
        write_pack(outputs_file, dict(zip(fetch, values, strict=True)))


def _session(job: dict[str, Any]) -> tuple[Any, dict[str, Any], list[Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, job["optimization"])
    options.intra_op_num_threads = options.inter_op_num_threads = int(job["threads"])
    options.enable_cpu_mem_arena = bool(job["arena"])
    options.log_severity_level = 4
    facts: dict[str, Any] = {"ort": ort.__version__}
    source: str | bytes = job["model"]
    keep: list[Any] = []
    if job["jitter"]:
        from .jitter import jittered_model

        source, facts["jitter"], keep = jittered_model(job, options)
    elif job["data_dir"]:
        source = Path(job["model"]).read_bytes()
    if isinstance(source, bytes):
        folder = job["data_dir"] or str(Path(job["model"]).parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    return ort.InferenceSession(source, options, providers=_providers(job["providers"])), facts, keep


def _providers(names: list[str]) -> list[Any]:
    """With TF32 off: it would be most of the difference that is measured."""
    return [(name, {"use_tf32": "0"}) if name == "CUDAExecutionProvider" else name for name in names]


def _works(provider: str) -> bool:
    """Whether a session of one node can be created on `provider` alone."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    if provider not in ort.get_available_providers():
        return False
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=_providers([provider]))
    return bool(session.get_providers()[0] == provider)


def _failure(stage: str, error: BaseException) -> dict[str, Any]:
    return {"ok": False, "stage": stage, "error": type(error).__name__, "message": str(error)[:4000]}


def _write_result(path: Path, result: dict[str, Any]) -> None:
    body = json.dumps(result)
    partial = path.with_name(path.name + ".part")
    partial.write_text(hashlib.sha256(body.encode()).hexdigest() + "\n" + body, "utf-8")
    partial.replace(path)


def _confine(limits: dict[str, Any]) -> None:
    np.seterr(all="ignore")
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, 1024)
    if limits["memory"]:
        _lower(resource.RLIMIT_AS, int(limits["memory"]))
        _lower(resource.RLIMIT_FSIZE, int(limits["memory"]))  # it writes nothing that it did not hold
    if sys.platform == "linux":
        control = ctypes.CDLL(None).prctl
        control(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if limits["death_signal"]:
            control(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            return
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End when the parent is gone, where the system cannot be asked to see to it."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def _lower(which: int, value: int) -> None:
    import resource

    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, hard))


def _limit_cpu(seconds: float) -> None:
    """Allow the next job `seconds` of processor time beyond what the process has used."""
    if sys.platform == "win32":
        return
    import resource

    used = sum(os.times()[:2])
    _lower(resource.RLIMIT_CPU, int(used + seconds) + 2)
