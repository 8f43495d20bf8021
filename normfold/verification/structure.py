"""L0: the interface of both models, compared without running or loading anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from .definitions import MICROSOFT, key
from .native import check
from .protos import free_inputs, opset, tensor_type, walk

_OVERRIDABLE_IR = 4
_LAYER_NORM = 17  # the opset that introduced LayerNormalization
_RUNTIMES = ("ort-cpu", "ort-cuda", "directml")  # targets whose models onnxruntime loads
Infos = Sequence[onnx.ValueInfoProto]


def compare_structure(original: onnx.ModelProto, candidate: onnx.ModelProto, frozen: frozenset[str]) -> list[str]:
    """Return what differs in the interface, one sentence each; empty when nothing does.

    Names, order, element types and dims (symbols included) of inputs and outputs must be identical. Inputs named in
    `frozen` may be missing from the candidate. Before IR 4 every initializer had to be listed as an input; such a listing
    is no part of the interface.
    """
    expected = [info for info in _interface(original) if info.name not in frozen]
    found = [info for info in _interface(candidate) if info.name not in frozen]
    problems = [*_compare("input", expected, found), *_compare("output", original.graph.output, candidate.graph.output)]
    already = set(_repeated(original.graph.output))  # invalid, but it is the author's, and runtimes take it
    repeated = [name for name in _repeated(candidate.graph.output) if name not in already]
    return problems + [f"the candidate has the output {name!r} more than once" for name in repeated]


def _interface(model: onnx.ModelProto) -> Infos:
    return free_inputs(model.graph) if model.ir_version < _OVERRIDABLE_IR else model.graph.input


def crashes_runtime(model: onnx.ModelProto) -> str:
    """Return why running `model` would end the process: onnxruntime segfaults on this form; "" if nothing is known."""
    for node in walk(model.graph):
        training = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if node.op_type == "BatchNormalization" and training and not all(node.output):
            return f"BatchNormalization {node.name!r} in training form leaves out an output; onnxruntime crashes on it"
    return ""


def check_wellformed(original: Path, candidate: Path, model: onnx.ModelProto, target: str) -> str:
    """Return why the ONNX checker refuses the candidate but not the original; "" if it does not.

    Args:
        original, candidate: the files.
        model: the candidate without its external data.
        target: where it will run. onnxruntime registers operators in the standard domain that the standard does not know;
            where it runs the model, they are no mistake.

    Raises:
        WorkerError: the child process crashed, timed out or ran out of memory over it.
    """
    borrowed = target in _RUNTIMES and any(_is_borrowed(node, opset(model)) for node in walk(model.graph))
    problem = check(_without_borrowed(model) if borrowed else candidate)
    return f"the ONNX checker refuses the candidate: {problem}" if problem and not check(original) else ""


def _is_borrowed(node: onnx.NodeProto, version: int) -> bool:
    domain, kind = key(node)
    too_early = kind == "LayerNormalization" and version < _LAYER_NORM
    return not domain and (kind == "SimplifiedLayerNormalization" or too_early)


def _without_borrowed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for the checker: borrowed operators in the domain of their owner, external data as inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in walk(copy.graph):
        if _is_borrowed(node, opset(model)):
            node.domain = MICROSOFT
    if all(entry.domain != MICROSOFT for entry in copy.opset_import):
        copy.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    kept = [tensor for tensor in model.graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    listed = {info.name for info in copy.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL and tensor.name not in listed:
            copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def _compare(kind: str, expected: Infos, found: Infos) -> list[str]:
    names, others = [info.name for info in expected], [info.name for info in found]
    problems = [f"{kind} {name!r} is missing" for name in names if name not in others]
    problems += [f"{kind} {name!r} is new" for name in others if name not in names]
    if problems:
        return problems
    if names != others:
        return [f"the {kind}s changed their order: {', '.join(names)} became {', '.join(others)}"]
    return [text for old, new in zip(expected, found, strict=True) for text in _compare_types(kind, old, new)]


def _compare_types(kind: str, old: onnx.ValueInfoProto, new: onnx.ValueInfoProto) -> list[str]:
    left, right = tensor_type(old), tensor_type(new)
    if left is None or right is None:
        same = old.type.SerializeToString() == new.type.SerializeToString()
        return [] if same else [f"the type of {kind} {old.name!r} changed"]
    if left.elem != right.elem:
        before, after = (onnx.TensorProto.DataType.Name(one.elem) for one in (left, right))
        return [f"the element type of {kind} {old.name!r} changed from {before} to {after}"]
    if left.dims != right.dims:
        return [f"the shape of {kind} {old.name!r} changed from {_dims(left.dims)} to {_dims(right.dims)}"]
    return []


def _dims(dims: tuple[int | str | None, ...] | None) -> str:
    return "unknown" if dims is None else "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"


def _repeated(infos: Infos) -> list[str]:
    names = [info.name for info in infos]
    return sorted({name for name in names if names.count(name) > 1})
