"""What the child process asks of onnx itself: shapes, well-formedness, inlining, the reference evaluator.

Imported by the worker when it is first asked, so it imports nothing of this package but definitions of operators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from onnx.reference import ReferenceEvaluator

from .oracle_norms import DEFINED
from .packing import read_pack, write_pack


def perform(job: dict[str, Any]) -> dict[str, Any]:
    """Do one task and return what there is to say about it; models and tensors that it makes go into files."""
    return _TASKS[job["task"]](job)


def _infer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        inferred = onnx.shape_inference.infer_shapes(_model(job), strict_mode=job["strict"], data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        return {"problem": str(error)}
    Path(job["answer"]).write_bytes(inferred.SerializeToString())
    return {"problem": ""}


def _inline(job: dict[str, Any]) -> dict[str, Any]:
    inlined = onnx.inliner.inline_local_functions(_model(job))
    Path(job["answer"]).write_bytes(inlined.SerializeToString())
    return {}


def _check(job: dict[str, Any]) -> dict[str, Any]:
    """By path, not by content: the checker looks for external data beside the model."""
    try:
        onnx.checker.check_model(job["model"])
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        return {"problem": next(iter(str(error).strip().splitlines()), type(error).__name__)}
    return {"problem": ""}


def _evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """Run the reference evaluator, with the norms by definition (`oracle_norms`)."""
    session = ReferenceEvaluator(_model(job), new_ops=DEFINED)  # may write into what it reads, so that gets a copy
    with np.errstate(all="ignore"):
        for feeds, outputs in job["trials"]:
            values = session.run(None, {name: np.array(value) for name, value in read_pack(Path(feeds)).items()})
            found = [np.asarray(value) if isinstance(value, np.generic) else value for value in values]
            write_pack(Path(outputs), dict(zip(session.output_names, found, strict=True)))
    return {}


def _model(job: dict[str, Any]) -> onnx.ModelProto:
    return onnx.load(job["model"], load_external_data=False)


_TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "infer": _infer,
    "inline": _inline,
    "check": _check,
    "evaluate": _evaluate,
}
