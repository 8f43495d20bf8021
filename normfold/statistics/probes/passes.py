"""One instrumented model in the child process, through which batches are streamed; at most a few are in flight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from normfold.errors import InputError
from normfold.model.load import Model
from normfold.model.patch import Candidate
from normfold.model.temporary import writing_temporary_files
from normfold.model.write import write_to_run
from normfold.statistics.collect import Array, Batch
from normfold.verification.jobs import Job, JobResult
from normfold.verification.runner import Worker

_LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC")
# A job holds as many batches as fit: the child is asked less often, and memory stays bounded. Two jobs are in flight.
_JOB_BYTES, _JOB_BATCHES = 16 << 20, 16

Outputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the child process.

    Args:
        timeout_s: for one job, which is up to 16 batches.
        memory_bytes: address space; None for no limit.
        threads: that one operator may use.
        isolated: every job has a process for itself.
        mapped_bytes: of the files that models map, which come on top of the memory of the machine.
    """

    timeout_s: float = 600.0
    memory_bytes: int | None = None
    threads: int = 1
    isolated: bool = False
    mapped_bytes: int = 0

    def of(self, model: Model) -> Limits:
        """The same for what is run of a model: what one job of a stranger's does to its process reaches no other."""
        isolated = self.isolated or model.trust.untrusted
        return replace(self, isolated=isolated, mapped_bytes=len(model.buffer) + model.external_bytes())


DEFAULT_LIMITS = Limits()


class Runtime:
    """The child process of one examination. Use as a context manager."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._worker = Worker(
            timeout_s=limits.timeout_s,
            memory_limit_bytes=limits.memory_bytes,
            threads=limits.threads,
            isolated=limits.isolated,
            mapped_bytes=limits.mapped_bytes,
        )
        self._models = 0

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.__exit__(kind, error, trace)

    def open(self, candidate: Candidate) -> Pass:
        """Write a model where the child can load it.

        Raises:
            InputError: `extdata.*`: a data file is missing, or is none that our own reader would open.
            EnvironmentProblem: `environment.temporary`.
        """
        if candidate.model.path is not None:
            candidate.model.open_data()  # the runtime opens them by their names
        self._models += 1
        path = self._worker.folder / f"model{self._models}.onnx"
        with writing_temporary_files():
            write_to_run(candidate, path)
        return Pass(self._worker, path, candidate.model.path)


class Pass:
    """One model that batches can be sent through, in any number of calls."""

    def __init__(self, worker: Worker, path: Path, original: Path | None) -> None:
        self._worker, self._path = worker, path
        self._data_dir = None if original is None else original.parent.resolve()
        self._level = _LEVELS[0]

    def close(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def stream(self, batches: Iterable[Batch], fetch: Sequence[str] | None) -> Iterator[tuple[Batch, Outputs]]:
        """Each batch with what the model answers.

        Args:
            batches: read as they are needed.
            fetch: names of outputs, None for those of the model.

        Raises:
            InputError: `data.run`, the runtime refuses the model or the data.
            WorkerError: the child crashed, timed out or ran out of memory.
        """
        with ThreadPoolExecutor(1) as ahead:
            waiting: tuple[list[Batch], Future[JobResult]] | None = None
            for job in _jobs(batches):
                running = ahead.submit(self.run, [batch.feeds for batch in job], fetch)
                if waiting is not None:  # while the child works, the answers to the job before are dealt with
                    yield from zip(waiting[0], waiting[1].result().outputs, strict=True)
                waiting = job, running
            if waiting is not None:
                yield from zip(waiting[0], waiting[1].result().outputs, strict=True)

    def run(
        self,
        feeds: Sequence[Mapping[str, Array]],
        fetch: Sequence[str] | None = None,
        *,
        jitter: Mapping[str, int] | None = None,
    ) -> JobResult:
        """Several runs in one session.

        Raises:
            InputError, WorkerError: as `stream`.
        """
        result = self._attempt(feeds, fetch, jitter)
        if not result.ok and result.stage == "load" and self._level == _LEVELS[0]:
            self._level = _LEVELS[1]
            result = self._attempt(feeds, fetch, jitter)
        if not result.ok:
            raise refusal(result)
        return result

    def _attempt(
        self, feeds: Sequence[Mapping[str, Array]], fetch: Sequence[str] | None, jitter: Mapping[str, int] | None
    ) -> JobResult:
        return self._worker.run(Job(self._path, feeds, fetch, self._data_dir, self._level, jitter, arena=True))


def refusal(result: JobResult) -> InputError:
    """What onnxruntime said, in one line."""
    words = " ".join(result.message.split())[:300]
    if result.stage == "load":
        return InputError("data.load", f"onnxruntime does not load the model: {words}")
    return InputError(
        "data.run", f"the model does not run on this data: {words}", hint="check the shapes and the batch size"
    )


def _jobs(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    job: list[Batch] = []
    size = 0
    for batch in batches:
        nbytes = sum(np.asarray(value).nbytes for value in batch.feeds.values())
        if job and (size + nbytes > _JOB_BYTES or len(job) == _JOB_BATCHES):
            yield job
            job, size = [], 0
        job.append(batch)
        size += nbytes
    if job:
        yield job
