"""onnxruntime sessions for measuring: plain (no optimisation, one thread) and deployed (its defaults, given threads)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def plain(model: Path | bytes, provider: str = "cpu") -> Any:
    """A session that runs the graph as it is written."""
    return _open(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, provider)


def deployed(
    model: Path | bytes, provider: str = "cpu", threads: int = 1, entries: Mapping[str, str] | None = None
) -> Any:
    """A session as users open it; one thread unless asked, so that timings do not fight over cores.

    Args:
        model: a file, or its bytes.
        provider: `cpu` or `cuda`.
        threads: threads inside an operator.
        entries: further session configuration, such as `session.disable_cpu_ep_fallback`.
    """
    return _open(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, provider, threads, entries or {})


def profiled(model: Path | bytes, provider: str, prefix: Path) -> Any:
    """A deployed session that records which provider runs which node; `end_profiling` names the file."""
    return _open(model, ort.GraphOptimizationLevel.ORT_ENABLE_ALL, provider, profile=prefix)


def _open(
    model: Path | bytes,
    level: ort.GraphOptimizationLevel,
    provider: str,
    threads: int = 1,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    source = model if isinstance(model, bytes) else str(model)
    # The CPU provider is always there, as the last resort; asking for it twice would be refused with the fallback off.
    return ort.InferenceSession(source, options, providers=[PROVIDERS[provider]])
