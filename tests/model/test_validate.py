"""What no reader may be handed: tensors, nodes and versions that contradict themselves."""

from __future__ import annotations

import sys
import time

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from normfold.errors import EnvironmentProblem, InputError
from normfold.model import dtypes, validate
from normfold.model.caps import Caps
from normfold.model.load import load
from tests.model.build import field, graph_attribute, net, node

# What every runtime reads alike: one number per type that onnx can make.
TYPES = [number for _, number in TensorProto.DataType.items() if number not in (0, TensorProto.STRING)]


def refused(code, model):
    with pytest.raises(InputError) as caught:
        load(model)
    assert caught.value.code == code
    return str(caught.value)


def holding(tensor, where="initializer"):
    """A model with the tensor in one of the places that a tensor may be in."""
    relu = node("Relu", ["x"], ["y"])
    constant = node("Constant", [], ["k"], value=tensor)
    if where == "initializer":
        return net([relu], {"x": [1]}, ["y"], {"w": tensor})
    if where == "constant":
        return net([constant, relu], {"x": [1]}, ["y"])
    body = helper.make_graph([constant], "b", [], [helper.make_empty_tensor_value_info("k")])
    if where == "branch":
        choose = node("If", ["x"], ["y"])
        choose.attribute.append(AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=body))
        return net([choose], {"x": [1]}, ["y"])
    function = helper.make_function("own", "F", [], ["k"], [constant], [helper.make_opsetid("", 18)])
    return net([node("F", [], ["y"], domain="own")], {"x": [1]}, ["y"], functions=[function], domains=["own"])


def external(name, offset, count, location="w.data", length=True):
    tensor = TensorProto(name=name, dims=[count], data_type=1, data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "offset": str(offset), **({"length": str(4 * count)} if length else {})}
    tensor.external_data.extend(StringStringEntryProto(key=k, value=v) for k, v in entries.items())
    return tensor


# --- tensors ---


@pytest.mark.parametrize("data_type", TYPES)
@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_the_sizes_are_those_of_onnx(data_type, count):
    """Raw and one by one: what onnx itself writes is right, one byte or entry more is not."""
    typed = TensorProto(name="w", data_type=data_type, dims=[count])
    field, entries = dtypes.typed_storage(data_type, count)
    getattr(typed, field).extend([0] * entries)
    made = helper.make_tensor("w", data_type, [count], [0] * count)
    assert len(getattr(made, field)) == entries or count == 0
    load(holding(typed))
    raw = TensorProto(name="w", data_type=data_type, dims=[count], raw_data=bytes(dtypes.byte_size(data_type, count)))
    assert numpy_helper.to_array(raw).shape == (count,)
    load(holding(raw))
    getattr(typed, field).append(0)
    refused("tensor.size", holding(typed))
    raw.raw_data += b"\0"
    refused("tensor.size", holding(raw))


WRONG = {
    "undefined type": ("tensor.type", TensorProto(name="w", dims=[1], raw_data=b"1234")),
    "unknown type": ("tensor.type", TensorProto(name="w", dims=[1], data_type=99, raw_data=b"1234")),
    "unknown type outside": ("tensor.type", None),
    "too many axes": ("tensor.dims", TensorProto(name="w", dims=[1] * 33, data_type=1, raw_data=b"1234")),
    "no data": ("tensor.size", TensorProto(name="w", dims=[2], data_type=1)),
    "empty data": ("tensor.size", TensorProto(name="w", dims=[2], data_type=1, raw_data=b"")),
    "another field": ("tensor.payload", TensorProto(name="w", dims=[2], data_type=1, int64_data=[1, 2])),
    "two fields": ("tensor.payload", TensorProto(name="w", dims=[1], data_type=1, float_data=[1], int32_data=[1])),
    "raw and typed": ("tensor.payload", TensorProto(name="w", dims=[1], data_type=1, float_data=[1], raw_data=b"1234")),
    "raw text": ("tensor.payload", TensorProto(name="w", dims=[1], data_type=8, raw_data=b"a")),
    "too few texts": ("tensor.size", TensorProto(name="w", dims=[2], data_type=8, string_data=[b"a"])),
    "text outside": ("tensor.payload", None),
}


@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function"])
@pytest.mark.parametrize("kind", list(WRONG))
def test_a_tensor_that_contradicts_itself(kind, where):
    code, tensor = WRONG[kind]
    if tensor is None:
        tensor = external("w", 0, 1)
        tensor.data_type = 8 if "text" in kind else 99
    assert "'w'" in refused(code, holding(tensor, where))


def test_external_data_with_values_one_by_one():
    tensor = external("w", 0, 1)
    tensor.float_data.append(1.0)
    refused("tensor.payload", holding(tensor))
    tensor = external("w", 0, 1, length=False)
    tensor.float_data.append(1.0)
    refused("tensor.payload", holding(tensor))


def test_nothing_needs_no_data():
    load(holding(TensorProto(name="w", dims=[0, 3], data_type=1)))
    load(holding(TensorProto(name="w", dims=[0], data_type=8)))


# --- external ranges ---


@pytest.mark.parametrize(
    ("ranges", "allowed"),
    [
        ([(0, 4), (16, 4)], True),
        ([(16, 4), (0, 4)], True),
        ([(0, 4), (0, 4)], True),  # tied
        ([(0, 4), (4, 4)], False),
        ([(0, 4), (0, 3)], False),
        ([(0, 8), (16, 1)], False),
        ([(8, 4), (0, 3)], False),
        ([(0, 4), (7, 0)], True),  # nothing lies nowhere
    ],
)
def test_ranges_that_overlap(ranges, allowed):
    tensors = {f"w{i}": external(f"w{i}", *found) for i, found in enumerate(ranges)}
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], tensors)
    if allowed:
        load(model)
    else:
        assert "overlap" in refused("extdata.overlap", model)
    for i, tensor in enumerate(model.graph.initializer):
        tensor.external_data[0].value = f"{i}.data"
    load(model)  # files of their own


def test_seventy_thousand_ranges_take_no_time():
    tensors = [external(f"w{i}", 4 * i, 1) for i in range(70_000)]
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], {t.name: t for t in tensors})
    start = time.process_time()
    load(model)
    assert time.process_time() - start < 20


# --- nodes ---


def test_an_attribute_twice():
    model = net([node("LeakyRelu", ["x"], ["y"], alpha=0.1)], {"x": [1]}, ["y"])
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", 0.5))
    assert "twice" in refused("graph.node", model)


@pytest.mark.parametrize("kind", [0, AttributeProto.INT, AttributeProto.STRING])
def test_an_attribute_of_another_type(kind):
    model = net([node("LeakyRelu", ["x"], ["y"], alpha=0.1)], {"x": [1]}, ["y"])
    load(model)
    data = model.graph.node[0].attribute[0].SerializeToString() + b"\xa0\x01" + bytes([kind])
    model.graph.node[0].attribute[0].ParseFromString(data)
    assert "type" in refused("graph.node", model)


def test_attributes_that_the_standard_does_not_know():
    """Of custom operators, and further ones of standard operators, any type will do; a rule looks at them."""
    custom = node("Own", ["x"], ["y"], domain="com.example", alpha="text")
    load(net([custom], {"x": [1]}, ["y"], domains=["com.example"]))
    load(net([node("LeakyRelu", ["x"], ["y"], further="text")], {"x": [1]}, ["y"]))


def test_no_operator():
    refused("graph.node", net([onnx.NodeProto(input=["x"], output=["y"])], {"x": [1]}, ["y"]))


@pytest.mark.parametrize("what", ["value", "node", "operator", "domain"])
def test_names_without_end(what):
    long = "n" * (Caps().name_length + 1)
    given = {"value": {}, "node": {"name": long}, "operator": {}, "domain": {"domain": long}}[what]
    end = long if what == "value" else "y"
    message = refused(
        "graph.name", net([node(long if what == "operator" else "Relu", ["x"], [end], **given)], {"x": [1]}, [end])
    )
    assert len(message) < 200


def test_a_standard_operator_without_a_version():
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"])
    model.opset_import[0].domain = "com.example"
    refused("opset.missing", model)


def test_another_domain_without_a_version_is_said():
    """Runtimes take such models; their operators stay untouched."""
    model = net([node("Gelu", ["x"], ["y"], domain="com.microsoft")], {"x": [1]}, ["y"])
    assert [warning for warning in load(model).warnings if "'com.microsoft'" in warning]
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert load(model).warnings == []


def test_many_small_tensors_are_checked_in_linear_time():
    seconds = []
    for count in (20_000, 80_000):
        weights = {f"w{i}": TensorProto(name=f"w{i}", data_type=1, dims=[1], raw_data=b"1234") for i in range(count)}
        model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], weights)
        start = time.process_time()
        load(model)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 4 * 2.3 * max(seconds[0], 0.2)


def test_an_array_that_is_no_model_changes_nothing():
    """The validator reads no payload: what is in it does not matter."""
    tensor = numpy_helper.from_array(np.array([np.nan, np.inf], np.float32), "w")
    load(holding(tensor))


# --- what two parsers read differently ---


def bytes_of(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    return tmp_path / "m.onnx"


def relu():
    return net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"])


def test_two_ir_versions(tmp_path):
    assert "IR version" in refused("input.malformed", bytes_of(tmp_path, relu().SerializeToString() + field(1, 9)))


@pytest.mark.parametrize("number", [7, 8, 14, 20, 25])
def test_a_number_in_the_place_of_a_message(tmp_path, number):
    refused("input.malformed", bytes_of(tmp_path, relu().SerializeToString() + field(number, 1)))


@pytest.mark.parametrize("number", [1, 5, 11, 12, 13, 15])
def test_a_number_in_the_place_of_a_part_of_the_graph(tmp_path, number):
    model = relu()
    graph = model.graph.SerializeToString() + field(number, 1)
    model.ClearField("graph")
    refused("input.malformed", bytes_of(tmp_path, model.SerializeToString() + field(7, graph)))


@pytest.mark.parametrize("number", [5, 6])
def test_an_attribute_of_two_values(tmp_path, number):
    body = helper.make_graph([node("Relu", ["x"], ["k"])], "b", [], [helper.make_empty_tensor_value_info("k")])
    value = numpy_helper.from_array(np.zeros(2000, np.float32), "t") if number == 5 else body
    attribute = field(1, b"then_branch") + field(number, value) + field(number, value) + field(20, number - 1)
    plain = onnx.NodeProto(input=["c"], output=["y"], op_type="If").SerializeToString()
    model = relu()
    del model.graph.node[:]
    graph = field(1, plain + field(5, attribute)) + model.graph.SerializeToString()
    model.ClearField("graph")
    data = model.SerializeToString() + field(7, graph)
    assert "two values" in refused("input.malformed", bytes_of(tmp_path, data))


def test_one_branch_is_one_value():
    body = helper.make_graph([node("Relu", ["x"], ["k"])], "b", [], [helper.make_empty_tensor_value_info("k")])
    choose = node("If", ["x"], ["y"])
    choose.attribute.append(graph_attribute("then_branch", body))
    load(net([choose], {"x": [1]}, ["y"]))


TEXTS = ["in", "out", "bn", "Relu", "org.x", "w0", "alpha", "key", "value", "N", "dim", "loc"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_is_not_utf_8(tmp_path, text):
    """Protobuf hands such text out as bytes; nothing behind the loader could live with that."""
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w0")
    nodes = [
        node("Add", ["in", "w0"], ["bn"], name="bn"),
        node("LeakyRelu", ["bn"], ["dim"], alpha=0.5),
        node("Relu", ["dim"], ["out"], domain="org.x"),
    ]
    model = net(nodes, {"in": ["N"]}, ["out"], {"w0": weight}, domains=["org.x"])
    model.metadata_props.add(key="key", value="value")
    outside = external("tied", 0, 1, location="loc")
    model.graph.initializer.append(outside)
    data = model.SerializeToString()
    load(bytes_of(tmp_path, data))
    wrong = b"\xff" * len(text)
    assert encoded(text) in data
    refused("input.malformed", bytes_of(tmp_path, data.replace(encoded(text), encoded(text)[:1] + wrong)))


def encoded(text):
    return bytes([len(text)]) + text.encode()


# --- odd, and no harm ---


def test_training_info_is_kept_and_said():
    model = relu()
    model.training_info.add()
    assert [warning for warning in load(model).warnings if "training_info" in warning]


def test_metadata_without_end(monkeypatch):
    monkeypatch.setattr(validate, "_LONGEST_METADATA", 1000)
    model = relu()
    model.metadata_props.add(key="k", value="v" * 900)
    load(model)
    model.metadata_props.add(key="l", value="v" * 1001)
    refused("input.metadata", model)


@pytest.mark.parametrize("dense", [True, False])
def test_a_sparse_initializer_defined_twice(dense):
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    sparse = onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(np.int64([0]), "i"), dims=[4])
    model = relu()
    model.graph.sparse_initializer.append(sparse)
    load(model)
    if dense:
        model.graph.initializer.append(values)
    else:
        model.graph.sparse_initializer.append(sparse)
    refused("graph.ssa", model)


def test_a_machine_that_reads_numbers_the_other_way(monkeypatch):
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(EnvironmentProblem) as caught:
        load(relu())
    assert caught.value.code == "environment.byteorder"
