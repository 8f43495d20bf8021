"""What the child process is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from .verdicts import Array


@dataclass(frozen=True, slots=True)
class Job:
    """One session and the trials to run through it.

    Args:
        model: path of the model to load.
        trials: input tensors by name, one mapping per trial.
        fetch: outputs to return, or None for all graph outputs.
        data_dir: folder of the external data when `model` is a rewritten copy that lives elsewhere.
        optimization: a name of onnxruntime.GraphOptimizationLevel.
        jitter: {"seed", "budget"} to run with weights moved by one ulp.
        arena: keep memory between the trials; for many trials of one shape.
    """

    model: Path
    trials: Sequence[Mapping[str, Array]]
    fetch: Sequence[str] | None = None
    data_dir: Path | None = None
    optimization: str = "ORT_DISABLE_ALL"
    jitter: Mapping[str, int] | None = None
    arena: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """Something that onnx itself does to a model, see `native`.

    Args:
        kind: a key of `tasks`.
        model: a path, or a model that is handed over as a file.
        trials: input tensors by name, one mapping per trial, where the model is evaluated.
        strict: whether shape inference refuses what contradicts itself.
    """

    kind: str
    model: Path | ModelProto
    trials: Sequence[Mapping[str, Array]] = ()
    strict: bool = False

    def file(self, place: Path) -> Path:
        """Return the absolute path of the model, which is written to `place` if it has none."""
        if isinstance(self.model, Path):
            return self.model.absolute()  # links stay: external data lie beside the link
        place.write_bytes(self.model.SerializeToString())
        return place


@dataclass(frozen=True, slots=True)
class JobResult:
    """What came back: outputs per trial, or the stage ("load" or "run") at which it was refused and why.

    `model` is the file that a task made, if it did.
    """

    ok: bool
    outputs: tuple[Mapping[str, Any], ...] = ()
    stage: str = ""
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    model: bytes = b""
