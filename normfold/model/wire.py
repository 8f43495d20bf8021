"""Protobuf at the level of bytes: where each field of a message lies, and how to write one.

normfold never re-encodes what it did not change: it copies byte ranges. For that it must know the ranges, so this
module reads the wire format itself (https://protobuf.dev/programming-guides/encoding/). It never recurses and never
copies a payload. What two parsers could read differently is refused: a length past the end of its parent, a varint of
more than ten bytes, a group, field number 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from normfold.errors import InputError

Buffer = bytes | memoryview

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_LAST_NUMBER = (1 << 29) - 1


class Field(NamedTuple):
    """One field of a message: its number, wire type, and where tag, value and end lie in the buffer (bytes)."""

    number: int
    wire_type: int
    tag: int
    start: int
    end: int


def malformed(what: str, offset: int) -> InputError:
    """The error for bytes that are no protobuf message."""
    return InputError(
        "input.malformed",
        f"not a valid ONNX file: {what} at byte {offset}",
        hint="the file is truncated or damaged; export or download it again",
    )


def read_varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """The unsigned varint at `at`, and the offset behind it."""
    value = shift = 0
    while at < end:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift >= 70:
            raise malformed("over-long number", at)
    raise malformed("the data ends in the middle of a number", at)


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message that fills `buffer[start:end]`, in file order.

    Raises:
        InputError: `input.malformed`, with the byte offset.
    """
    at = start
    while at < end:
        tag_at = at
        tag = buffer[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(buffer, tag_at, end)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number <= _LAST_NUMBER:
            raise malformed(f"field number {number}", tag_at)
        if wire_type == LENGTH:
            if at >= end:
                raise malformed("the data ends in the middle of a field", at)
            length = buffer[at]
            at += 1
            if length >= 0x80:
                length, at = read_varint(buffer, at - 1, end)
            stop = at + length
        elif wire_type == VARINT:
            stop = read_varint(buffer, at, end)[1]
        elif wire_type == FIXED64:
            stop = at + 8
        elif wire_type == FIXED32:
            stop = at + 4
        else:
            raise malformed(f"unsupported wire type {wire_type}", tag_at)
        if stop > end:
            raise malformed("a field runs past the end of its message", tag_at)
        yield Field(number, wire_type, tag_at, at, stop)
        at = stop


def encode_varint(value: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def header(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field whose payload has `length` bytes."""
    return encode_varint(number << 3 | LENGTH) + encode_varint(length)
