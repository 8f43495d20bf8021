"""What the original computes, and how far rounding alone can move it: `python -m … MODEL OUT.npz [SEEDS]`.

Run in a process of its own, once per model; `compare` then holds every tool's result against the file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.measure.count import is_quantised
from benchmarks.measure.feeds import Feeds, Recipe, draw, is_open, recipes
from benchmarks.measure.jitter import jitter_feeds, jitter_weights
from benchmarks.measure.session import plain

RUNS_OF_JITTER = 4
SHAPES = 2
Arrays = list[NDArray[np.generic]]


@dataclass(frozen=True)
class Trial:
    """One run of the original: its inputs, its outputs, and δ, the noise floor of each output."""

    feeds: Feeds
    outputs: Arrays
    noise: list[float]


@dataclass(frozen=True)
class Reference:
    """All trials of a model, with its interface."""

    inputs: list[str]
    outputs: list[str]
    trials: list[Trial]

    def save(self, path: Path) -> None:
        """Write everything to one `.npz`."""
        arrays: dict[str, Any] = {"inputs": np.array(self.inputs), "outputs": np.array(self.outputs)}
        for k, trial in enumerate(self.trials):
            arrays |= {f"{k}/feed/{name}": array for name, array in trial.feeds.items()}
            arrays |= {f"{k}/output/{i}": array for i, array in enumerate(trial.outputs)}
            arrays[f"{k}/noise"] = np.array(trial.noise)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what `save` wrote."""
        with np.load(path) as data:
            names, outputs = list(map(str, data["inputs"])), list(map(str, data["outputs"]))
            count = sum(key.endswith("/noise") for key in data)
            trials = [
                Trial(
                    {name: data[f"{k}/feed/{name}"] for name in names},
                    [data[f"{k}/output/{i}"] for i in range(len(outputs))],
                    data[f"{k}/noise"].tolist(),
                )
                for k in range(count)
            ]
        return cls(names, outputs, trials)


def reference(model: onnx.ModelProto, seeds: int = 3) -> Reference:
    """Run `model` on `seeds` seeds and up to two shapes, with its noise floor.

    Raises:
        RuntimeError: it runs on no inputs that we can draw, or answers differently each time.
    """
    session = plain(model.SerializeToString())
    nudged = [jitter_weights(model, seed) for seed in range(RUNS_OF_JITTER)]
    sessions = [plain(copy.SerializeToString()) if count else None for copy, count in nudged]
    accepted = list(islice(_accepted(session, model.graph), SHAPES if is_open(model.graph) else 1))
    if not accepted:
        raise RuntimeError("the original accepts none of the drawn inputs")
    names = [value.name for value in session.get_inputs()], tensor_outputs(session)
    pairs = [(recipe, seed) for recipe in accepted for seed in range(seeds)]
    trials = [_trial(session, sessions, draw(model.graph, *pair)) for pair in pairs]
    return Reference(*names, stepped(trials) if is_quantised(model) else trials)


def stepped(trials: list[Trial]) -> list[Trial]:
    """The trials of a quantised model, whose noise comes in steps: either none on an input, or several at once.

    An output's δ becomes the largest of all trials, and at least the smallest step between its values.
    """
    columns = zip(*(trial.outputs for trial in trials), strict=True)
    noise = [max(smallest_step(some), *(t.noise[i] for t in trials)) for i, some in enumerate(columns)]
    return [replace(trial, noise=noise) for trial in trials]


def smallest_step(arrays: Sequence[NDArray[np.generic]]) -> float:
    """The smallest gap between two values of floating arrays, 0 where there is none."""
    values = np.unique(np.concatenate([array.ravel() for array in arrays]))
    if values.dtype.kind != "f" or np.isfinite(values).sum() < 2:
        return 0.0
    return float(np.diff(values[np.isfinite(values)]).min())


def tensor_outputs(session: Any) -> list[str]:
    """The outputs that can be compared: tensors, not the sequences and maps of a classifier's tail."""
    return [value.name for value in session.get_outputs() if value.type.startswith("tensor(")]


def run(session: Any, feeds: Feeds) -> Arrays:
    """The comparable outputs of one run."""
    arrays = map(np.asarray, session.run(tensor_outputs(session), feeds))
    return [array.astype(str) if array.dtype == object else array for array in arrays]


def difference(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """max|a − b|, infinite where shapes, or the places of NaN and Inf, differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(y[finite]).all():
        return float("inf")
    return float(np.max(np.abs(x[finite] - y[finite]), initial=0.0))


def _accepted(session: Any, graph: onnx.GraphProto) -> Iterator[Recipe]:
    for recipe in recipes():
        try:
            session.run(None, draw(graph, recipe, 0))
        except Exception:
            continue
        yield recipe


def _trial(session: Any, nudged: list[Any], feeds: Feeds) -> Trial:
    outputs = run(session, feeds)
    if any(difference(a, b) for a, b in zip(outputs, run(session, feeds), strict=True)):
        raise RuntimeError("the original answers differently each time")
    moved = [
        run(other, feeds) if other else run(session, jitter_feeds(feeds, seed)) for seed, other in enumerate(nudged)
    ]
    noise = [max(difference(y, other[i]) for other in moved) for i, y in enumerate(outputs)]
    return Trial(feeds, outputs, noise)


def main(source: str, destination: str, seeds: str = "3") -> None:
    """Write the reference and print `{"trials": n}` or `{"error": why}`."""
    try:
        found = reference(onnx.load(source), int(seeds))
    except Exception as why:
        print(json.dumps({"error": str(why)[:300]}))
        return
    found.save(Path(destination))
    print(json.dumps({"trials": len(found.trials)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
