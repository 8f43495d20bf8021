"""Protobuf at the level of bytes: everything is covered, nothing ambiguous is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normfold.errors import InputError
from normfold.model.wire import FIXED32, FIXED64, LENGTH, VARINT, encode_varint, fields, header, read_varint

from .build import conv_bn, net

NUMBERS = st.integers(1, 2**29 - 1)
FIELD = st.one_of(
    st.tuples(NUMBERS, st.just(VARINT), st.integers(0, 2**64 - 1).map(encode_varint)),
    st.tuples(NUMBERS, st.just(FIXED64), st.binary(min_size=8, max_size=8)),
    st.tuples(NUMBERS, st.just(FIXED32), st.binary(min_size=4, max_size=4)),
    st.tuples(NUMBERS, st.just(LENGTH), st.binary(max_size=300)),
)


def encoded(number, kind, payload):
    size = encode_varint(len(payload)) if kind == LENGTH else b""
    return encode_varint(number << 3 | kind) + size + payload


def listed(data):
    return list(fields(memoryview(data), 0, len(data)))


@given(st.lists(FIELD, max_size=20))
@settings(max_examples=150, deadline=None)
def test_fields_cover_every_byte_in_order(parts):
    data = b"".join(encoded(*part) for part in parts)
    at = 0
    for item, (number, kind, payload) in zip(listed(data), parts, strict=True):
        assert (item.number, item.wire_type, item.tag) == (number, kind, at)
        assert data[item.start : item.end] == payload
        at = item.end
    assert at == len(data)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
@settings(deadline=None)
def test_varints_come_back(value, behind):
    data = encode_varint(value)
    assert read_varint(data + behind, 0, len(data) + len(behind)) == (value, len(data))


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_fields_or_an_input_error(data):
    try:
        items = listed(data)
    except InputError as error:
        assert error.code == "input.malformed"
    else:
        assert sum(item.end - item.tag for item in items) == len(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x00\x01", "field number 0"),
        (b"\x02\x00", "field number 0"),
        (b"\x0b", "wire type 3"),  # the start of a group
        (b"\x0c", "wire type 4"),
        (b"\x0e\x00", "wire type 6"),
        (b"\x0f\x00", "wire type 7"),
        (b"\x08", "in the middle of a number"),
        (b"\x08\x80", "in the middle of a number"),
        (b"\x88", "in the middle of a number"),
        (b"\x0a", "in the middle of a field"),
        (b"\x0a\x80", "in the middle of a number"),
        (b"\x0a\x05abc", "past the end"),
        (b"\x09\x00\x00", "past the end"),
        (b"\x0d\x00", "past the end"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "over-long"),
        (b"\x0a" + b"\xff" * 9 + b"\x01" + b"x", "past the end"),
        (b"\x80" * 11 + b"\x01", "over-long"),
    ],
)
def test_malformed(data, words):
    with pytest.raises(InputError, match=words) as caught:
        listed(data)
    assert caught.value.code == "input.malformed"


def test_ten_bytes_are_the_longest_number():
    assert read_varint(b"\x80" * 9 + b"\x01", 0, 10) == (1 << 63, 10)


def test_a_tag_that_no_parser_accepts_is_refused():
    """Tags have 32 bits; beyond, one parser truncates and another refuses."""
    with pytest.raises(InputError, match="field number"):
        listed(encode_varint(1 << 35) + b"\x00")


def test_a_field_may_not_leave_its_message():
    data = b"\x0a\x04\x0a\x03abc"
    outer = next(fields(data, 0, 6 + 1))
    assert outer.end == 6
    with pytest.raises(InputError):
        list(fields(data, outer.start, outer.end))


@given(st.integers(1, 2**20), st.integers(0, 2**40))
def test_header(number, length):
    data = header(number, length)
    tag, at = read_varint(data, 0, len(data))
    assert (tag >> 3, tag & 7) == (number, LENGTH)
    assert read_varint(data, at, len(data)) == (length, len(data))


def test_a_model_cut_anywhere_is_refused_or_reads_as_far_as_it_goes():
    """A cut at a field border of the model is a valid, shorter message; every other cut is malformed."""
    nodes, weights = conv_bn("a", "x", "y")
    data = net(nodes, {"x": [1, 4, 4, 4]}, ["y"], weights).SerializeToString()
    borders = {item.end for item in listed(data)} | {0}
    for cut in range(len(data)):
        if cut in borders:
            listed(data[:cut])
        else:
            with pytest.raises(InputError):
                listed(data[:cut])
