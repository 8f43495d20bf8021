"""A child process that asks onnx and onnxruntime what they can do here. Whatever that crashes, it crashes alone.

Run as a script, `probe.py RESULT [PROVIDER]`: without a provider it lists versions and providers, with one it runs a model
of one node on it. Only the standard library is imported before it is known what is wrong.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(result: str, provider: str | None = None) -> None:
    """Write what is found to the file `result`, as JSON."""
    found: dict[str, Any]
    try:
        found = _session(provider) if provider else _libraries()
    except Exception as error:  # that is an answer as well
        found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    Path(result).write_text(json.dumps(found), "utf-8")


def _libraries() -> dict[str, Any]:
    import onnx

    found: dict[str, Any] = {"opset": onnx.defs.onnx_opset_version(), "ir_version": int(onnx.IR_VERSION)}
    try:
        import onnxruntime

        found["providers"] = list(onnxruntime.get_available_providers())
    except Exception as error:
        found["runtime_error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return found


def _session(provider: str) -> dict[str, Any]:
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    if provider.startswith(("CUDA", "Tensorrt")) and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "probe", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[provider])
    used = session.get_providers()
    values = session.run(None, {"x": np.ones(2, np.float32)})[0].tolist()
    return {"used": used, "right": values == [2.0, 2.0]}


if __name__ == "__main__":
    main(*sys.argv[1:])
