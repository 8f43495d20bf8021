"""Verification copies: the same model with its random operators seeded and with the scores behind its decisions.

A copy is written into the worker's folder only when one is needed; its external data stay where they are.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from .emulation import Emulated, emulate
from .kernels import Runtime
from .protos import attributes, walk

_RANDOM = (
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli",
)  # fmt: skip
_VIEWS = ("Identity", "Cast", "Squeeze")


@dataclass(frozen=True, slots=True)
class Decision:
    """A graph output that holds indices chosen by score: ArgMax, ArgMin or TopK.

    Args:
        output: the graph output.
        scores: the tensor that decides.
        axis: the axis along which it decides.
        reduced: True when the output lacks that axis.
    """

    output: str
    scores: str
    axis: int
    reduced: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """What to load for one side: `data_dir` is set when `path` is a rewritten copy; `emulated` says what was swapped."""

    path: Path
    data_dir: Path | None
    emulated: Emulated


def is_random(model: onnx.ModelProto) -> bool:
    """True if an operator of the standard draws random numbers, dropout in training form included."""
    return any(_draws(node) for node in walk(model.graph))


def _draws(node: onnx.NodeProto) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    training = node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])
    return node.op_type in _RANDOM or training


def decisions(model: onnx.ModelProto) -> dict[str, Decision]:
    """Return the graph outputs that ArgMax, ArgMin or TopK decide, directly or through views."""
    producers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for info in model.graph.output:
        name = info.name
        while name in producers and producers[name].op_type in _VIEWS:
            if producers[name].op_type == "Squeeze":
                break
            name = producers[name].input[0]
        node = producers.get(name)
        if node is None or node.op_type not in ("ArgMax", "ArgMin", "TopK"):
            continue
        if node.op_type == "TopK" and name != node.output[1]:
            continue
        given = attributes(node)
        axis = int(given.get("axis", -1 if node.op_type == "TopK" else 0))
        reduced = node.op_type != "TopK" and not given.get("keepdims", 1)
        found[info.name] = Decision(info.name, node.input[0], axis, reduced)
    return found


def prepare_copy(
    path: Path,
    model: onnx.ModelProto,
    scores: Sequence[str],
    folder: Path,
    stem: str,
    runtime: Runtime,
    *,
    changed: bool = False,
) -> Copy:
    """Write a copy of `model` (loaded from `path` without external data) if it has to be another than the file.

    That is so when seeds or scores are needed, when operators have no kernel on `runtime`, or when it was `changed`.
    """
    extra = [name for name in scores if name not in {info.name for info in model.graph.output}]
    emulated = emulate(model, runtime)
    if not (extra or changed or emulated.model is not model or is_random(model)):
        return Copy(path, None, emulated)
    copy = onnx.ModelProto()
    copy.CopyFrom(emulated.model)
    for node in walk(copy.graph):
        if _draws(node):
            _seed(node)
    copy.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(extra))
    target = folder / f"{stem}.onnx"
    onnx.save(copy, target)
    return Copy(target, path.parent.resolve(), dataclasses.replace(emulated, model=copy))


def _seed(node: onnx.NodeProto) -> None:
    """The same node gets the same seed on both sides: it is made from the name of what it produces."""
    seed = zlib.crc32(node.output[0].encode()) % (1 << 20)
    kept = [attribute for attribute in node.attribute if attribute.name != "seed"]
    del node.attribute[:]
    node.attribute.extend(kept)
    value = seed if node.op_type == "Dropout" else float(seed)
    node.attribute.append(onnx.helper.make_attribute("seed", value))
