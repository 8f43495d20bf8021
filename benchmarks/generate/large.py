"""The models of the scale goals: a wide CNN, a long chain, one of norms, and one larger than a protobuf may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.generate.parts import FLOAT, Dims, Sheet
from normfold.model.wire import header

CHUNK = 1 << 22


def cnn(blocks: int = 50, channels: int = 256, seed: int = 0) -> onnx.ModelProto:
    """`blocks` times Conv → BatchNorm → Relu; the defaults make 150 nodes and 118 MB."""
    return _stack(blocks, channels, 3, seed)


def chain(nodes: int = 30_000, channels: int = 8, seed: int = 0) -> onnx.ModelProto:
    """The same, narrow and long; 30,000 nodes make 27 MB."""
    return _stack(nodes // 3, channels, 3, seed)


def _stack(blocks: int, channels: int, kernel: int, seed: int) -> onnx.ModelProto:
    sheet, y = Sheet(seed), "x"
    for _ in range(blocks):
        y = sheet.add("Relu", sheet.norm(sheet.conv(y, channels, channels, kernel), channels))
    dims: Dims = ("N", channels, 16, 16)
    return sheet.model(dims, {y: dims})


def transformer(nodes: int = 30_000, width: int = 32, seed: int = 0) -> onnx.ModelProto:
    """`nodes / 10` decomposed LayerNorms, in turns in front of a MatMul and of the Add that closes a residual block."""
    sheet, y = Sheet(seed), "x"
    for _ in range(nodes // 20):
        inner = sheet.add("MatMul", _layer_norm(sheet, y, width), sheet.weight(width, width))
        y = sheet.add("Add", y, _layer_norm(sheet, inner, width))
    dims: Dims = ("N", 16, width)
    return sheet.model(dims, {y: dims})


def _layer_norm(sheet: Sheet, x: str, width: int) -> str:
    """The nine nodes of torch's export below opset 17."""
    two, epsilon = sheet.constant(np.float32(2)), sheet.constant(np.float32(1e-5))
    scale, bias = (sheet.constant(sheet.rng.uniform(low, low + 1, width).astype(np.float32)) for low in (0.5, -0.5))
    deviation = sheet.add("Sub", x, sheet.add("ReduceMean", x, axes=[-1]))
    variance = sheet.add("ReduceMean", sheet.add("Pow", deviation, two), axes=[-1])
    core = sheet.add("Div", deviation, sheet.add("Sqrt", sheet.add("Add", variance, epsilon)))
    return sheet.add("Add", sheet.add("Mul", core, scale), bias)


class ExternalSheet(Sheet):
    """A sheet whose large weights go straight to a data file, a chunk at a time.

    Args:
        data: the file that they are appended to.
        seed: of every weight.
    """

    def __init__(self, data: Path, seed: int = 0) -> None:
        super().__init__(seed)
        self.data = data
        self.block = self.rng.standard_normal(CHUNK, np.float32)

    def weight(self, *shape: int) -> str:
        """Like `Sheet.weight`, but written to the data file; the model keeps a reference to it."""
        size = int(np.prod(shape))
        scale = np.float32(1 / np.sqrt(np.prod(shape[1:])))
        with self.data.open("ab") as file:
            offset = file.tell()
            for chunk in self._chunks(size):
                file.write((chunk * scale).tobytes())
        name = f"w_{len(self.weights)}"
        self.weights.append(_reference(name, shape, self.data.name, offset, 4 * size))
        return name

    def _chunks(self, size: int) -> Iterator[NDArray[np.float32]]:
        for start in range(0, size, CHUNK):
            yield np.roll(self.block, int(self.rng.integers(CHUNK)))[: size - start]


def write_external(folder: Path, layers: int = 56, width: int = 4096, channels: int = 1024, seed: int = 0) -> Path:
    """A convolutional trunk and an MLP, a BatchNorm behind every fourth layer, weights in one data file.

    A third of the layers are 3×3 Convs, a third Gemms, a third MatMuls. The defaults make 3.2 GB of data.
    """
    sheet, y = ExternalSheet(folder / "model.onnx.data", seed), "x"
    for k in range(layers // 3):
        y = sheet.conv(y, channels, channels)
        y = sheet.add("Relu", sheet.norm(y, channels) if k % 4 == 0 else y)
    y = sheet.add("Flatten", sheet.add("GlobalAveragePool", y))
    # A Relu, for two products in a row would be one: what is measured here is folding and copying.
    y = sheet.add("Relu", sheet.add("MatMul", y, sheet.weight(channels, width)))
    for k in range(layers - layers // 3):
        w = sheet.weight(width, width)
        y = sheet.add("Gemm", y, w, sheet.constant(np.zeros(width, np.float32))) if k % 2 else sheet.add("MatMul", y, w)
        y = sheet.add("Relu", sheet.norm(y, width) if k % 4 == 0 else y)
    path = folder / "model.onnx"
    path.write_bytes(sheet.model(("N", channels, 7, 7), {y: ("N", width)}).SerializeToString())
    return path


def _reference(name: str, shape: tuple[int, ...], file: str, offset: int, length: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=FLOAT, dims=shape, data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", file), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def write_inline(folder: Path, layers: int = 40, width: int = 4096, seed: int = 0) -> Path:
    """A model of one file that is larger than a protobuf message may be: a BatchNorm, and MatMuls with weights of 64 MiB.

    The defaults make 2.7 GB. No library writes such a file, so the fields are put together here.
    """
    sheet, y, names = Sheet(seed), "x", [f"big_{k}" for k in range(layers)]
    y = sheet.norm(sheet.conv(y, 8, 8), 8)
    for name in names:
        y = sheet.add("Relu", sheet.add("MatMul", y, name))
    model = sheet.model(("N", 8, 1, width), {y: ("N", 8, 1, width)})
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    shells = [onnx.TensorProto(name=name, data_type=FLOAT, dims=[width, width]).SerializeToString() for name in names]
    size = 4 * width * width
    heads = [header(5, len(shell) + len(header(9, size)) + size) + shell + header(9, size) for shell in shells]
    block = (np.random.default_rng(seed).standard_normal(CHUNK, np.float32) / np.float32(np.sqrt(width))).tobytes()
    path = folder / "model.onnx"
    with path.open("wb") as file:
        file.write(model.SerializeToString() + header(7, len(graph) + sum(map(len, heads)) + layers * size) + graph)
        for head in heads:
            file.write(head)
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
    return path


def write_many(folder: Path, tensors: int = 70_000, files: int = 700) -> Path:
    """Very many external tensors of 1 KiB in many files, beside a Conv and its norm."""
    sheet, y = Sheet(), "x"
    y = sheet.norm(sheet.conv(y, 8, 8), 8)
    per_file = -(-tensors // files)
    for number in range(files):
        (folder / f"{number}.data").write_bytes(bytes(1024 * per_file))
    for k in range(tensors):
        file, place = divmod(k, per_file)
        sheet.weights.append(_reference(f"t_{k}", (256,), f"{file}.data", 1024 * place, 1024))
    path = folder / "model.onnx"
    path.write_bytes(sheet.model(("N", 8, 4, 4), {y: ("N", 8, 4, 4)}).SerializeToString())
    return path
