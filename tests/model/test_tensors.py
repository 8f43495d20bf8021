"""Tensors of the file are read when somebody asks; new ones are rounded once, block by block."""

from __future__ import annotations

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from normfold.errors import InputError
from normfold.model import dtypes, opener
from normfold.model import external as data_files
from normfold.model.load import load
from normfold.model.tensors import NewTensor, RangeRefusal, Unreadable, Values

from .build import net, node
from .test_write import external

PLAIN = [
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.INT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
    TensorProto.UINT16,
    TensorProto.UINT32,
    TensorProto.UINT64,
    TensorProto.BOOL,
]
FLOATS = PLAIN[:4]


def loaded(tensor):
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {"w": tensor})
    return load(model).graph.values["w"].tensor


def typed(data_type, values, dims):
    return helper.make_tensor("w", data_type, dims, values)


@pytest.mark.parametrize("data_type", PLAIN)
@pytest.mark.parametrize("count", [0, 1, 6, 3000])
def test_raw_and_typed_storage_hold_the_same(data_type, count):
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    values = (np.arange(count) % 100).astype(dtype)
    for tensor in (numpy_helper.from_array(values, "w"), typed(data_type, values, [count])):
        found = loaded(tensor)
        assert found.dims == (count,)
        assert found.data_type == data_type
        assert found.nbytes == values.nbytes
        assert bytes(found.raw()) == values.tobytes()
        np.testing.assert_array_equal(found.array().astype(np.float64), values.astype(np.float64))
        assert not found.array().flags.writeable


def test_values_of_odd_bits_survive():
    """NaN payloads, negative zero and subnormals, in both storages of the 16-bit types."""
    bits = np.uint16([0x8000, 0x0001, 0x7C01, 0xFE00, 0x7C00, 0x03FF])
    for data_type, dtype in ((TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)):
        raw = TensorProto(name="w", data_type=data_type, dims=[6], raw_data=bits.tobytes())
        listed = TensorProto(name="w", data_type=data_type, dims=[6], int32_data=bits.tolist())
        for tensor in (raw, listed):
            assert loaded(tensor).array().view(np.uint16).tolist() == bits.tolist()
            assert loaded(tensor).array().dtype == dtype


@pytest.mark.parametrize(
    "data_type",
    [
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT4E2M1,
        TensorProto.COMPLEX64,
    ],
)
def test_types_without_arithmetic_still_have_bytes(data_type):
    size = dtypes.byte_size(data_type, 5)
    tensor = loaded(TensorProto(name="w", data_type=data_type, dims=[5], raw_data=bytes(size)))
    assert len(tensor.raw()) == size
    with pytest.raises(Unreadable):
        tensor.array()


def test_strings():
    found = loaded(helper.make_tensor("w", TensorProto.STRING, [1], [b"a"]))
    assert found.nbytes == 0
    with pytest.raises(Unreadable):
        found.raw()
    with pytest.raises(Unreadable):
        found.array()


def test_segments_are_left_alone():
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    tensor.segment.begin, tensor.segment.end = 0, 2
    with pytest.raises(Unreadable):
        loaded(tensor).array()


@pytest.mark.parametrize("size", [0, 1, 15, 17, 4000, 100_000])
def test_raw_data_of_the_wrong_size(size):
    with pytest.raises(InputError) as caught:
        loaded(TensorProto(name="w", data_type=1, dims=[4], raw_data=bytes(size)))
    assert caught.value.code == "tensor.size"


def test_no_data_at_all_and_too_little_typed_data():
    for tensor in (
        TensorProto(name="w", data_type=1, dims=[4]),
        TensorProto(name="w", data_type=1, dims=[4], float_data=[1, 2]),
        TensorProto(name="w", data_type=1, dims=[2**40], float_data=[1, 2]),
        TensorProto(name="w", data_type=1, dims=[2**40], raw_data=b"1234"),
    ):
        with pytest.raises(InputError) as caught:
            loaded(tensor)
        assert caught.value.code == "tensor.size"


@pytest.mark.parametrize("size", [4, 5000])
def test_two_payloads(size):
    tensor = numpy_helper.from_array(np.ones(size, np.float32), "w")
    tensor.float_data.extend([2.0] * size)
    with pytest.raises(InputError) as caught:
        loaded(tensor).array()
    assert caught.value.code == "tensor.payload"


def test_inline_payloads_are_not_copied(tmp_path):
    values = np.arange(5000, dtype=np.float32)
    (tmp_path / "m.onnx").write_bytes(
        net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {"w": values}).SerializeToString()
    )
    model = load(tmp_path / "m.onnx")
    array = model.graph.values["w"].tensor.array()
    assert np.shares_memory(array, np.frombuffer(model.buffer, np.uint8))


# --- external data ---


def with_data(folder, tensor):
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {"w": tensor})
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return load(folder / "m.onnx").graph.values["w"].tensor


def test_an_external_tensor_is_a_view_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(opener, "_READ_LIMIT", 10)
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(b"abc" + values.tobytes())
    for length in (True, False):
        found = with_data(tmp_path, external("w", values, "w.data", 3, length))
        np.testing.assert_array_equal(found.array(), values)
        found.release()
        np.testing.assert_array_equal(found.array(), values)


@pytest.mark.parametrize(
    ("offset", "entry", "code"),
    [
        (0, "20", "tensor.size"),
        (0, "28", "tensor.size"),
        (1, "24", "extdata.truncated"),
        (24, "24", "extdata.truncated"),
        (10**15, "24", "extdata.truncated"),
        (0, "0", "tensor.size"),
    ],
)
def test_ranges_that_do_not_fit(tmp_path, offset, entry, code):
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(values.tobytes())
    tensor = external("w", values, "w.data", offset)
    tensor.external_data[2].value = entry
    with pytest.raises(InputError) as caught:
        with_data(tmp_path, tensor).array()
    assert caught.value.code == code


def test_nobody_opens_what_nobody_reads(tmp_path, monkeypatch):
    values = np.arange(6, dtype=np.float32)

    def forbidden(*_):
        raise AssertionError("opened")

    monkeypatch.setattr(data_files, "open_data", forbidden)
    found = with_data(tmp_path, external("w", values, "none.data", 0))
    assert found.dims == (6,)
    assert found.nbytes == 24


def test_one_file_is_opened_once(tmp_path, monkeypatch):
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "w.data").write_bytes(values.tobytes() * 100)
    weights = {f"w{i}": external(f"w{i}", values, "w.data", 24 * i) for i in range(100)}
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], weights)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    count = 0
    real = data_files.open_data

    def counted(*arguments):
        nonlocal count
        count += 1
        return real(*arguments)

    monkeypatch.setattr(data_files, "open_data", counted)
    loaded_model = load(tmp_path / "m.onnx")
    for name in weights:
        loaded_model.graph.values[name].tensor.array()
    assert count == 1
    loaded_model.files.close()


# --- new tensors ---


def reference(base, factor, offset, dims, dtype):
    values = np.broadcast_to(base, dims).astype(np.float64)
    values = values if factor is None else values * factor
    values = values if offset is None else values + offset
    return dtypes.rounded(np.asarray(values), helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8).tolist()


def new(base, data_type, dims=None, **parts):
    base = np.asarray(base)
    source = Values(base, helper.np_dtype_to_tensor_dtype(base.dtype))
    return NewTensor("w", source, data_type, tuple(base.shape if dims is None else dims), **parts)


@given(data=st.data(), data_type=st.sampled_from(FLOATS))
@settings(max_examples=150, deadline=None)
def test_one_rounding_to_nearest_even(data, data_type):
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    dims = data.draw(st.lists(st.integers(1, 5), min_size=0, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    base = rng.normal(size=dims).astype(dtype)

    def operand():
        shape = [1 if rng.integers(2) else d for d in dims][int(rng.integers(len(dims) + 1)) :]
        return rng.normal(size=shape) if rng.integers(4) else None

    factor, offset = operand(), operand()
    tensor = new(base, data_type, factor=factor, offset=offset)
    expected = reference(base, factor, offset, tuple(dims), dtype)
    assume(
        not (np.abs(expected.astype(np.float64)) < dtypes.smallest_normal(data_type)).any()
    )  # the range guard has its own tests
    assert bits(tensor.array()) == bits(expected)
    assert tensor.payload() == expected.tobytes()
    assert tensor.nbytes == expected.nbytes


def test_ties_go_to_even():
    tie = np.float32([1.0])
    for data_type, step in (
        (TensorProto.FLOAT16, 2.0**-10),
        (TensorProto.BFLOAT16, 2.0**-7),
        (TensorProto.FLOAT, 2.0**-23),
    ):
        down = new(tie, data_type, offset=np.float64([step / 2])).array()
        up = new(tie, data_type, offset=np.float64([step * 1.5])).array()
        above = new(tie, data_type, offset=np.float64([step / 2 + 2.0**-40])).array()
        assert [float(x[0]) for x in (down, up, above)] == [1.0, 1 + 2 * step, 1 + step]


@pytest.mark.parametrize("count", [2**18 - 1, 2**18, 2**18 + 1, 2**19 + 3])
@pytest.mark.parametrize("rows", [1, 3])
def test_block_borders(count, rows):
    rng = np.random.default_rng(count)
    base = rng.normal(size=(rows, count)).astype(np.float32)
    factor = rng.normal(size=(rows, 1))
    offset = rng.normal(size=count)
    tensor = new(base, TensorProto.FLOAT, factor=factor, offset=offset)
    blocks = list(tensor.blocks())
    assert max(block.size for block in blocks) <= 2**18
    expected = reference(base, factor, offset, base.shape, np.float32)
    np.testing.assert_array_equal(np.concatenate([b.reshape(-1) for b in blocks]), expected.reshape(-1))


@pytest.mark.parametrize("dims", [(), (0,), (3, 0), (0, 5), (1, 1), (2, 3, 2**17), (700, 1, 700), (2**19, 1)])
def test_odd_shapes(dims):
    base = np.full(dims, 2, np.float32)
    tensor = new(base, TensorProto.FLOAT, factor=np.float64(3))
    np.testing.assert_array_equal(tensor.array(), np.full(dims, 6, np.float32))
    assert tensor.array().shape == dims
    assert sum(block.nbytes for block in tensor.blocks()) == tensor.nbytes


def test_the_base_may_broadcast():
    base = np.float32([[1], [2]])
    tensor = new(base, TensorProto.FLOAT, (3, 2, 4), factor=np.float64([1, 2, 3, 4]), offset=np.ones((3, 1, 1)))
    np.testing.assert_array_equal(tensor.array(), reference(base, np.float64([1, 2, 3, 4]), 1, (3, 2, 4), np.float32))


def test_memory_is_one_block_and_not_the_weight():
    base = np.broadcast_to(np.float32(1.5), (64, 2**18))
    tensor = new(base, TensorProto.FLOAT, factor=np.full((64, 1), 2.0))
    tracemalloc.start()
    total = sum(block.size for block in tensor.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 * 2**18
    assert peak < 16 << 20 < tensor.nbytes


@pytest.mark.parametrize("data_type", FLOATS)
def test_values_beyond_the_range_are_refused(data_type):
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    largest = dtypes.largest(data_type)
    assert np.isfinite(np.float64(largest).astype(dtype))
    base = np.full(4, largest, np.float64).astype(dtype)
    new(base, data_type, factor=np.float64([1, 0.5, -1, 0])).array()
    for factor in (2.0, -2.0, np.nan, np.inf):
        with pytest.raises(RangeRefusal):
            new(base, data_type, factor=np.float64([1, 1, factor, 1])).array()


@pytest.mark.parametrize("data_type", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_values_below_the_range_are_refused_when_they_are_many(data_type):
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    tiny = dtypes.smallest_normal(data_type)
    base = np.ones(4000).astype(dtype)
    factor = np.ones(4000)
    factor[:4] = tiny / 4
    new(base, data_type, factor=factor).array()
    factor[:40] = tiny / 4
    with pytest.raises(RangeRefusal):
        new(base, data_type, factor=factor).array()
    new(base, data_type, factor=factor, negligible=np.arange(4000) < 40).array()
    base[:40] = dtype.type(0)
    new(base, data_type, factor=factor).array()
    factor[:40] = 0  # a dead channel is exact
    new(np.ones(4000).astype(dtype), data_type, factor=factor).array()


def test_bfloat16_is_rounded_once_everywhere():
    """Against the definition: the nearer of the two neighbours, and of equals the even one."""
    rng = np.random.default_rng(3)
    low = rng.integers(0x0080, 0x7F7F, 5000).astype(np.uint16)
    high = low + np.uint16(1)
    a, b = (x.view(ml_dtypes.bfloat16).astype(np.float64) for x in (low, high))
    middle = (a + b) / 2
    even = np.where(low % 2 == 0, low, high)
    for sign in (1.0, -1.0):
        top = np.uint16(0x8000 if sign < 0 else 0)
        for values, expected in (
            (a, low),
            (middle, even),
            (np.nextafter(middle, a), low),
            (np.nextafter(middle, b), high),
            (a + (b - a) * 0.3, low),
        ):
            found = dtypes.rounded(sign * values, TensorProto.BFLOAT16).view(np.uint16)
            np.testing.assert_array_equal(found, expected | top)
    special = dtypes.rounded(np.float64([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e39, 1e-50]), TensorProto.BFLOAT16)
    np.testing.assert_array_equal(special.astype(np.float64), [np.nan, np.inf, -np.inf, 0, 0, np.inf, 0])
