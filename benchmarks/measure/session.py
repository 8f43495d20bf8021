"""onnxruntime sessions for measuring: plain (no optimisation, one thread) and deployed (its defaults, one thread)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort


def plain(model: Path | bytes) -> Any:
    """A session that runs the graph as it is written."""
    return _open(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)


def deployed(model: Path | bytes) -> Any:
    """A session as users open it, on one thread so that timings do not fight over cores."""
    return _open(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


def _open(model: Path | bytes, level: ort.GraphOptimizationLevel) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
