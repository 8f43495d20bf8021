"""What onnx itself says about a model, asked in the child process: its native code, like its reference evaluator, is not
made for files of strangers.

The worker of the verification that is under way answers; without one, a worker is started for the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import onnx

from normfold.errors import WorkerError
from normfold.model.temporary import writing_temporary_files

from .jobs import JobResult, Task
from .runner import Worker
from .verdicts import Array, VerifyOptions

_serving: ContextVar[Worker | None] = ContextVar("serving", default=None)


class EvaluationError(Exception):
    """The reference evaluator does not get through this model."""


@contextmanager
def answered_by(worker: Worker) -> Iterator[None]:
    """Have `worker` answer all questions that are asked inside."""
    token = _serving.set(worker)
    try:
        yield
    finally:
        _serving.reset(token)


@contextmanager
def working(options: VerifyOptions, mapped_bytes: int = 0) -> Iterator[Worker]:
    """A worker as the options want it, which also answers all questions that are asked inside.

    Args:
        options: of the verification.
        mapped_bytes: size of the data that the models map, which the memory limit leaves room for.
    """
    with (
        Worker(
            timeout_s=options.timeout_s,
            memory_limit_bytes=options.memory_limit_bytes,
            threads=options.threads,
            isolated=options.isolated,
            mapped_bytes=mapped_bytes,
        ) as worker,
        answered_by(worker),
        writing_temporary_files(),  # models and data for the worker
    ):
        yield worker


def infer_shapes(model: onnx.ModelProto, *, strict: bool = False) -> onnx.ModelProto | None:
    """Return `model` with the types that follow from those of its inputs, None if onnx refuses it.

    Raises:
        WorkerError: the child crashed, timed out or ran out of memory over it.
    """
    found = _ask(Task("infer", model, strict=strict))
    return onnx.ModelProto.FromString(found.model) if found.ok and not found.facts["problem"] else None


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return `model` with its calls of local functions replaced by their bodies, None if onnx cannot do it.

    Raises:
        WorkerError: as `infer_shapes`.
    """
    found = _ask(Task("inline", model))
    return onnx.ModelProto.FromString(found.model) if found.ok else None


def check(subject: Path | onnx.ModelProto) -> str:
    """Return the first line of what the ONNX checker has against `subject`, "" if nothing.

    Raises:
        WorkerError: as `infer_shapes`.
    """
    found = _ask(Task("check", subject))
    # An exception without a text is no "nothing against it".
    return str(found.facts["problem"]) if found.ok else found.message or str(found.facts.get("error") or "no answer")


def evaluate(model: onnx.ModelProto, trials: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Return the outputs of `model` per trial, as the reference evaluator has them.

    Raises:
        EvaluationError: it has no result, because it cannot, or because its process crashed, timed out or ran out of memory.
    """
    try:
        found = _ask(Task("evaluate", model, trials))
    except WorkerError as error:
        raise EvaluationError(f"{error.code}: {error.message}") from error
    if not found.ok:
        raise EvaluationError(f"{found.facts['error']}: {found.message}")
    return [dict(outputs) for outputs in found.outputs]


def _ask(task: Task) -> JobResult:
    worker = _serving.get()
    if worker is not None:
        return worker.run(task)
    with Worker() as alone:
        return alone.run(task)
