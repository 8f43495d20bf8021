"""Right or wrong: a tool's result against the original's reference: `python -m … REFERENCE.npz RESULT.onnx`.

Both ran with onnxruntime's optimisations off. The tolerance of an output is its own noise floor δ (`reference`):
right up to 4δ + 4u·max|y|, wrong above 8δ as well, suspect between.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure.reference import Reference, Trial, difference, run, tensor_outputs
from benchmarks.measure.session import plain

ORDER = ("right", "suspect", "wrong")
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11}


@dataclass(frozen=True)
class Verdict:
    """Whether a result computes what the original computes.

    Args:
        word: right, suspect or wrong.
        worst: largest difference in units of the tolerance (1 is its edge).
        why: what is wrong, or "".
    """

    word: str
    worst: float
    why: str = ""


def compare(expected: Reference, model: Path | bytes) -> Verdict:
    """Run `model` on every trial of `expected` and return the worst verdict."""
    session = plain(model)
    if (changed := _interface_change(expected, session)) is not None:
        return Verdict("wrong", float("inf"), changed)
    return worst(_judge(trial, session) for trial in expected.trials)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The most severe verdict, then the largest difference."""
    return max(verdicts, key=lambda verdict: (ORDER.index(verdict.word), verdict.worst))


def judge_output(y: NDArray[np.generic], got: NDArray[np.generic], noise: float) -> Verdict:
    """One output against its noise floor."""
    delta = difference(y, got)
    u = UNIT_ROUNDOFF.get(y.dtype.name, 0.0)
    tall = float(np.max(np.abs(y.astype(np.float64)), where=np.isfinite(y), initial=0.0)) if u else 0.0
    right = 4 * noise + 4 * u * tall
    share = delta / right if right else (float("inf") if delta else 0.0)
    if delta <= right:
        return Verdict("right", share if np.isfinite(share) else 0.0)
    return Verdict("suspect" if delta <= max(8 * noise, right) else "wrong", share, f"off by {delta:.2e}")


def _interface_change(expected: Reference, session: Any) -> str | None:
    if tensor_outputs(session) != expected.outputs:
        return "outputs changed"
    if sorted(value.name for value in session.get_inputs()) != sorted(expected.inputs):
        return "inputs changed"
    return None


def _judge(trial: Trial, session: Any) -> Verdict:
    try:
        got = run(session, trial.feeds)
    except Exception as why:
        return Verdict("wrong", float("inf"), f"does not run: {str(why)[:200]}")
    return worst(map(judge_output, trial.outputs, got, trial.noise))


def main(reference: str, result: str) -> None:
    """Print the verdict as one JSON document."""
    try:
        verdict = compare(Reference.load(Path(reference)), Path(result))
    except Exception as why:
        verdict = Verdict("wrong", float("inf"), f"does not load: {str(why)[:200]}")
    print(json.dumps(asdict(verdict)))


if __name__ == "__main__":
    main(*sys.argv[1:])
