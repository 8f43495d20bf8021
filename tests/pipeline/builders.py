"""Small models for end-to-end tests, and a few questions that all of them ask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

DTYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "double": TensorProto.DOUBLE}


def tensor(name: str, values: np.ndarray, kind: int = TensorProto.FLOAT) -> TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return numpy_helper.from_array(np.ascontiguousarray(values.astype(np.float64).astype(dtype)), name)


def statistics(prefix: str, channels: int, seed: int = 0, kind: int = TensorProto.FLOAT) -> list[TensorProto]:
    rng = np.random.default_rng(seed)
    values = {
        "g": rng.uniform(0.5, 1.5, channels),
        "b": rng.normal(0, 0.3, channels),
        "m": rng.normal(0, 0.3, channels),
        "v": rng.uniform(0.5, 1.5, channels),
    }
    return [tensor(f"{prefix}_{key}", value, kind) for key, value in values.items()]


def conv_bn(
    blocks: int = 3,
    channels: int = 4,
    *,
    kind: int = TensorProto.FLOAT,
    listed: tuple[str, ...] = (),
    ir: int = 8,
    tail: list[onnx.NodeProto] | None = None,
) -> ModelProto:
    """`blocks` times Conv, BatchNormalization, Relu; the nodes are named conv0, bn0, relu0, …; input x, output y."""
    nodes, tensors, last = [], [], "x"
    for i in range(blocks):
        rng = np.random.default_rng(i)
        fan_in = (3 if i == 0 else channels) * 9
        shape = (channels, fan_in // 9, 3, 3)
        tensors.append(tensor(f"w{i}", rng.normal(0, fan_in**-0.5, shape), kind))
        tensors += statistics(f"bn{i}", channels, i, kind)
        names = [f"bn{i}_{key}" for key in "gbmv"]
        relu = "y" if i == blocks - 1 and not tail else f"r{i}"
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"c{i}", *names], [f"n{i}"], f"bn{i}"),
            helper.make_node("Relu", [f"n{i}"], [relu], f"relu{i}"),
        ]
        last = relu
    graph = helper.make_graph(
        [*nodes, *(tail or [])],
        "g",
        [helper.make_tensor_value_info("x", kind, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, ["N", channels, 8, 8])],
        tensors,
    )
    for item in tensors:
        if item.name in listed or listed == ("*",):
            graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir)


def count(model: ModelProto, op_type: str = "BatchNormalization") -> int:
    return sum(node.op_type == op_type for node in model.graph.node)


def interface(model: ModelProto) -> tuple[list[bytes], list[bytes]]:
    """Inputs without initializers, and outputs, as they are in the file."""
    stored = {item.name for item in model.graph.initializer}
    inputs = [item.SerializeToString() for item in model.graph.input if item.name not in stored]
    return inputs, [item.SerializeToString() for item in model.graph.output]


def save(model: ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def run(model: ModelProto | Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs with optimisations off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    found: list[np.ndarray] = session.run(None, {name: value for name, value in feeds.items() if name in wanted})
    return found


def image(batch: int = 2, kind: int = TensorProto.FLOAT) -> dict[str, np.ndarray]:
    values = np.random.default_rng(7).normal(size=(batch, 3, 8, 8))
    return {"x": values.astype(helper.tensor_dtype_to_np_dtype(kind))}


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
