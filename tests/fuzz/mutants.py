"""Damaged models: any bytes of valid ones changed, and valid encodings of what no model may say.

Everything follows from one seed, so that a finding is a number.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator

import numpy as np
from google.protobuf.message import Message
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

import models
from normfold.errors import InputError
from normfold.model.wire import LENGTH, Field, encode_varint, fields

_INTEGERS = (0, 1, -1, 2, 7, 8, 99, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63))
_TEXTS = ("", "x", "y", "../../etc/passwd", "*/_ORT_MEM_ADDR_/*", "a" * 5000, "\0", "::", "ai.onnx", "If", "Loop")
_LONGEST = 40_000  # bytes: mutants of large models mostly change weights
_DEEPEST = 60


def _odd() -> ModelProto:
    """A model with what the others do not have: branches, a function, external and sparse data, training info."""
    weight = numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")
    outside = TensorProto(name="o", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "o.data"), ("offset", "0"), ("length", "16")):
        outside.external_data.add(key=key, value=value)
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.int64([0]), "i")
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("own", ["c"], ["d"], domain="f")],
        "then", [], [helper.make_tensor_value_info("d", 1, None)],
    )  # fmt: skip
    body = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node("Relu", ["b"], ["r"])]
    function = helper.make_function("f", "own", ["a"], ["r"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("If", ["yes"], ["t"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32([2, 3]).reshape(2, 1, 1))),
        helper.make_node("Mul", ["t", "k"], ["y"], "mul", doc_string="doc"),
    ]
    infos = [
        helper.make_tensor_value_info("x", 1, ["N", 2, 4, 4]),
        helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", 1, None)], [weight, outside])
    graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[4]))
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=[function])
    model.training_info.add()
    model.metadata_props.add(key="k", value="v")
    return model


@functools.cache
def originals() -> tuple[bytes, ...]:
    """The models that are damaged."""
    found = [_odd().SerializeToString(deterministic=True)]
    for name in sorted(models.TORCH_FREE):
        data = models.build(name).SerializeToString(deterministic=True)
        if len(data) <= _LONGEST:
            found.append(data)
    return tuple(found)


def mutant(seed: int) -> bytes:
    """One damaged model."""
    rng = random.Random(seed)
    data = rng.choice(originals())
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = rng.choice(_MUTATIONS)(rng, data) or data
    return data


# --- bytes ---


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randrange(max(1, len(data)))


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if data else data


def _set(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]) + data[at + 1 :]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: _place(rng, data)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 8, 64, 1000)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at, size = _place(rng, data), rng.choice((1, 2, 8, 64, 1000))
    return data[: at + size] + data[at:]


def _splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(originals())
    start = _place(rng, other)
    at = _place(rng, data)
    return data[:at] + other[start : start + rng.choice((4, 40, 400))] + data[at:]


def _noise(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 3, 20))) + data[at:]


# --- the wire format ---


def _found(rng: random.Random, data: bytes) -> list[Field]:
    """The fields on a random way into the message, outermost first."""
    way: list[Field] = []
    start, end = 0, len(data)
    while len(way) < _DEEPEST:
        try:
            inside = list(fields(data, start, end))
        except InputError:
            break
        if not inside:
            break
        chosen = rng.choice(inside)
        way.append(chosen)
        if chosen.wire_type != LENGTH or rng.random() < 0.2:
            break
        start, end = chosen.start, chosen.end
    return way


def _rewritten(data: bytes, way: list[Field], new: bytes) -> bytes:
    """The innermost field replaced, and the lengths of all around it made right again."""
    for outer, inner in zip(reversed(way[:-1]), reversed(way[1:]), strict=True):
        inside = data[outer.start : inner.tag] + new + data[inner.end : outer.end]
        new = encode_varint(outer.number << 3 | LENGTH) + encode_varint(len(inside)) + inside
    return data[: way[0].tag] + new + data[way[0].end :]


def _length(rng: random.Random, data: bytes) -> bytes:
    """A length that is not true, those around it unchanged."""
    way = [field for field in _found(rng, data) if field.wire_type == LENGTH]
    if not way:
        return data
    field = way[-1]
    size = field.end - field.start
    wrong = rng.choice((0, 1, size + 1, max(0, size - 1), 2 * size, 2**31 - 1, 2**31, 2**63, 2**64 - 1))
    return data[: field.tag] + encode_varint(field.number << 3 | LENGTH) + encode_varint(wrong) + data[field.start :]


def _field(rng: random.Random, data: bytes) -> bytes:
    """A field left out, doubled, renumbered, of another type, or with other content, the rest made right again."""
    way = _found(rng, data)
    if not way:
        return data
    field = way[-1]
    old = data[field.tag : field.end]
    number = encode_varint(rng.choice((1, 2, 3, 5, 7, 9, 15, 20, 25, 2**29 - 1)) << 3 | field.wire_type)
    choice = rng.randrange(5)
    if choice == 0:
        new = b""
    elif choice == 1:
        new = old + old
    elif choice == 2:
        new = (
            number
            + (encode_varint(field.end - field.start) if field.wire_type == LENGTH else b"")
            + data[field.start : field.end]
        )
    elif choice == 3:
        new = encode_varint(field.number << 3) + encode_varint(rng.choice(_INTEGERS) % 2**64)
    else:
        content = rng.choice((b"", rng.randbytes(4), rng.choice(_TEXTS).encode(), data[field.start : field.end] * 2))
        new = encode_varint(field.number << 3 | LENGTH) + encode_varint(len(content)) + content
    return _rewritten(data, way, new)


# --- meaning ---


def _messages(message: Message) -> Iterator[Message]:
    pending = [message]
    while pending:
        current = pending.pop()
        yield current
        for descriptor, value in current.ListFields():
            if descriptor.message_type is not None:
                pending += [value] if isinstance(value, Message) else list(value)


def _meaning(rng: random.Random, data: bytes) -> bytes:
    """A valid message that says something else: another number, another name, a part less or twice."""
    try:
        model = ModelProto.FromString(data)
    except Exception:
        return data
    for _ in range(rng.choice((1, 1, 3))):
        message = rng.choice(list(_messages(model)))
        present = message.ListFields()
        if present:
            descriptor, value = rng.choice(present)
            try:
                _change(rng, message, descriptor.name, value)
            except UnicodeDecodeError:  # text that an earlier mutation broke can be read and not be written
                return data
    return bytes(model.SerializeToString())


def _change(rng: random.Random, message: Message, name: str, value: object) -> None:
    single = isinstance(value, (int, float, str, bytes, Message))
    if rng.random() < 0.15 or (single and isinstance(value, Message)):
        message.ClearField(name)
    elif single:
        _assign(rng, message, name, _other(rng, value))
    elif len(value):  # type: ignore[arg-type]
        _resize(rng, value)


def _assign(rng: random.Random, message: Message, name: str, value: object) -> None:
    try:
        setattr(message, name, value)
    except (ValueError, TypeError):  # 2**62 in a field of 32 bits, or an enum that is closed
        setattr(message, name, type(value)())


def _other(rng: random.Random, value: object) -> object:
    if isinstance(value, bool | int):
        return rng.choice((*_INTEGERS, int(value) + 1, int(value) - 1))
    if isinstance(value, float):
        return rng.choice((0.0, -0.0, float("nan"), float("inf"), -1.0, 1e38, 1e-40))
    if isinstance(value, bytes):
        return rng.choice((b"", value[:-1], value + b"\0", value * 2, rng.randbytes(len(value))))
    return rng.choice((*_TEXTS, str(value) + "_"))


def _resize(rng: random.Random, values: object) -> None:
    items = list(values)  # type: ignore[call-overload]
    choice = rng.randrange(4)
    if choice == 0:
        items.pop(rng.randrange(len(items)))
    elif choice == 1:
        items.append(rng.choice(items))
    elif choice == 2:
        rng.shuffle(items)
    elif not isinstance(items[0], Message):
        items[rng.randrange(len(items))] = _other(rng, items[0])
    copies = [type(item).FromString(item.SerializeToString()) if isinstance(item, Message) else item for item in items]
    before = list(values)  # type: ignore[call-overload]
    del values[:]  # type: ignore[attr-defined]
    try:
        values.extend(copies)  # type: ignore[attr-defined]
    except (ValueError, TypeError):
        values.extend(before)  # type: ignore[attr-defined]


_MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _set, _truncate, _remove, _repeat, _splice, _noise, _length, _length, _field, _field, _field, _meaning,
    _meaning, _meaning, _meaning,
)  # fmt: skip

__all__ = ["mutant", "originals"]
