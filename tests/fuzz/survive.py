"""One damaged model through everything that works in this process: it is a model, or it is refused in one line."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normfold.errors import NormfoldError
from normfold.inspection import inspect
from normfold.model.load import load
from normfold.model.tensors import RangeRefusal, Unreadable
from normfold.model.write import to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.calls import plan_model
from normfold.surgery.planner import Exclusions
from tests.fuzz.mutants import mutant

SECONDS = 20.0


class Hang(BaseException):
    """Nobody may catch it."""


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: `code` of the refusal, "" if it is a model; `bug` is a traceback."""

    code: str
    bug: str = ""
    edits: int = 0


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fate(data: bytes, seconds: float = SECONDS) -> Fate:
    """Load, plan, apply, write, look at it, and load what was written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        (Path(folder) / "o.data").write_bytes(np.ones(4, np.float32).tobytes())
        try:
            with _alarm(seconds):
                return _through(path)
        except (NormfoldError, RangeRefusal) as error:
            line = str(error)
            return Fate(getattr(error, "code", "range"), "" if line.count("\n") == 0 or "'" in line else line)
        except Hang:
            return Fate("", f"still busy after {seconds:g} s")
        except Exception:
            return Fate("", traceback.format_exc())


def _through(path: Path) -> Fate:
    model = load(path)
    planned = plan_model(model, Exclusions({}))
    inspect(path)
    try:
        result = to_bytes(apply(planned.model, planned.plan, {}))
    except Unreadable:
        return Fate("unreadable")
    again = path.with_name("again.onnx")
    again.write_bytes(result)
    try:
        load(again)
    except NormfoldError as error:
        return Fate("", f"what was written of it is refused: {error}")
    return Fate("", edits=len(planned.plan.edits))


def survive(seed: int) -> Fate:
    """The fate of the mutant of a seed."""
    return fate(mutant(seed))
