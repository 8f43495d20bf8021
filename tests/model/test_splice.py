"""What nobody edited comes out byte for byte, wherever it stands and whatever it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from normfold.model.load import Initializers, load
from normfold.model.patch import Candidate
from normfold.model.wire import fields
from normfold.model.write import to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.planner import Exclusions, make_plan

from .build import conv_bn, field, graph_attribute, net, node, run

UNKNOWN = field(3333, b"from the future") + field(3334, 77)


def parts(data, *path):
    """The encoded fields of the message at a path of field numbers (each the first of its number): (number, bytes)."""
    view = memoryview(data)
    start, end = 0, len(data)
    for number in path:
        item = next(item for item in fields(view, start, end) if item.number == number)
        start, end = item.start, item.end
    return [(item.number, bytes(view[item.tag : item.end])) for item in fields(view, start, end)]


def reassembled(data, edit, *path):
    """The message with the payload at a path replaced by `edit(payload)`."""
    if not path:
        return edit(data)
    out, done = b"", False
    for item in fields(data, 0, len(data)):
        if item.number == path[0] and not done:
            out += field(item.number, reassembled(data[item.start : item.end], edit, *path[1:]))
            done = True
        else:
            out += data[item.tag : item.end]
    assert done
    return out


def folded(data, **exclusions):
    """The bytes after every fold, and the plan."""
    model = load(data)
    plan = make_plan(model, Exclusions({}, **exclusions))
    return to_bytes(apply(model, plan, {"pkg.normfold.version": "test"})), plan


def rich():
    """Conv + BN beside one of everything that a model can hold."""
    nodes, weights = conv_bn("a", "x", "t")
    weights["other"] = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1)
    weights["scale"] = np.float32(0.5)
    weights["zero"] = np.uint8(1)
    domain = helper.make_node("Own", ["t2"], ["t3"], domain="own", name="call", doc_string="a call")
    domain.attribute.append(helper.make_attribute("kept", [1, 2, 3], doc_string="why"))
    nodes += [
        helper.make_node("Mul", ["t", "t"], ["t2"], name="square", doc_string="documented"),
        domain,
        node("QuantizeLinear", ["t3", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    nodes[2].metadata_props.add(key="origin", value="here")
    body = [helper.make_node("Relu", ["a"], ["b"], doc_string="inside")]
    function = helper.make_function("own", "Own", ["a"], ["b"], body, [helper.make_opsetid("", 17)], ["kept"])
    function.doc_string = "a function"
    function.metadata_props.add(key="f", value="g")
    model = net(nodes, {"x": ["N", 4, 5, 5]}, ["y"], weights, functions=[function], domains=["own"])
    model.doc_string, model.producer_name, model.producer_version = "a model\nin two lines", "maker", "7"
    model.domain, model.model_version = "org.example", 12
    model.metadata_props.add(key="author", value="someone")
    model.metadata_props.add(key="license", value="MIT")
    graph = model.graph
    graph.doc_string = "a graph"
    graph.metadata_props.add(key="g", value="m")
    graph.input[0].doc_string = "an image"
    graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    graph.value_info.append(helper.make_tensor_value_info("t3", TensorProto.FLOAT, ["N", 4, 5, 5]))
    graph.value_info.append(helper.make_tensor_value_info("a.conv", TensorProto.FLOAT, ["N", 4, 5, 5]))
    note = graph.quantization_annotation.add(tensor_name="t3")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    values = numpy_helper.from_array(np.float32([1, 2]), "sparse")
    indices = numpy_helper.from_array(np.int64([1, 3]), "sparse.i")
    graph.sparse_initializer.append(SparseTensorProto(values=values, indices=indices, dims=[8]))
    training = model.training_info.add()
    training.algorithm.name = "sgd"
    training.algorithm.initializer.append(numpy_helper.from_array(np.float32([0.1]), "rate"))
    for item in graph.initializer:
        item.doc_string = f"about {item.name}"
    data = model.SerializeToString()
    for path in ((), (7,), (7, 1), (7, 1, 5), (7, 5), (25,), (20,), (14,), (7, 14)):
        data = reassembled(data, lambda payload: payload + UNKNOWN, *path)
    return data


def backwards(data):
    """The fields of the graph in another order: initializers last to first, outputs before inputs before nodes."""

    def shuffle(payload):
        items = parts(payload)
        nodes = [raw for number, raw in items if number == 1]
        rest = [raw for number, raw in items if number != 1][::-1]
        return b"".join([*rest, *nodes])

    return reassembled(data, shuffle, 7)


def interleaved(data):
    """Initializers between the nodes, and the graph in front of the IR version."""

    def mix(payload):
        items = parts(payload)
        nodes = [raw for number, raw in items if number == 1]
        rest = [raw for number, raw in items if number != 1]
        mixed = [raw for pair in zip(nodes, rest, strict=False) for raw in pair]
        return b"".join([*mixed, *nodes[len(rest) :], *rest[len(nodes) :]])

    data = reassembled(data, mix, 7)
    return b"".join(raw for _, raw in sorted(parts(data), key=lambda item: item[0] != 7))


@pytest.fixture(params=["as it is", "backwards", "interleaved"])
def data(request):
    return {"as it is": bytes, "backwards": backwards, "interleaved": interleaved}[request.param](rich())


@pytest.fixture
def path(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    return tmp_path / "m.onnx"


def test_without_edits_the_bytes_are_the_bytes(path, data):
    assert to_bytes(Candidate(load(path), {}, {})) == data


def test_an_empty_patch_rewrites_to_the_same_bytes(path, data):
    """The splicer itself, not the short cut for an untouched model."""
    candidate = Candidate(load(path), {}, {})
    candidate.patch(candidate.model.graph)
    for _, scope in candidate.model.functions:
        candidate.patch(scope)
    assert to_bytes(candidate) == data


def test_beside_a_fold_everything_else_is_byte_for_byte(path, data):
    result, plan = folded(path)
    assert [d.code for d in plan.decisions if d.op_type == "BatchNormalization"] == ["NF101"]

    before, after = parts(data), parts(result)
    own = [raw for number, raw in after if number == 14 and b"pkg.normfold." in raw]
    assert len(own) == 1
    assert [item for item in after if item[0] != 7 and item[1] not in own] == [item for item in before if item[0] != 7]

    graph = {number for number, _ in parts(data, 7)}
    for number in graph - {1, 5, 13}:
        assert [r for n, r in parts(result, 7) if n == number] == [r for n, r in parts(data, 7) if n == number]
    touched = (b"a.conv", b"a.bn", b"a.w", b"a.scale", b"a.shift", b"a.mean", b"a.var")
    for number in (1, 5, 13):
        kept = [r for n, r in parts(data, 7) if n == number and not any(name in r for name in touched)]
        assert kept
        assert kept == [r for n, r in parts(result, 7) if n == number and r in kept]
    assert len([1 for n, _ in parts(result, 7) if n == 1]) == len([1 for n, _ in parts(data, 7) if n == 1]) - 1
    # The edited Conv keeps what it had besides.
    conv = next(r for n, r in parts(result, 7) if n == 1 and b"a.conv" in r)
    assert conv.count(UNKNOWN) == 2


def test_the_fold_computes_the_same(path, data):
    result, _ = folded(path)
    original, changed = onnx.load_from_string(data), onnx.load_from_string(result)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 5)).astype(np.float32)
    for model in (original, changed):
        del model.graph.sparse_initializer[:], model.training_info[:]
    a, b = (run(model, {"x": x})[0] for model in (original, changed))
    assert np.abs(a - b).max() <= 0.5  # one step of the quantiser behind it


def test_unknown_fields_stay_in_an_edited_node_and_attribute(tmp_path):
    nodes, weights = conv_bn("a", "x", "y", bias=True)
    data = net(nodes, {"x": [1, 4, 5, 5]}, ["y"], weights).SerializeToString()
    for deep in ((7, 1), (7, 1, 5)):
        data = reassembled(data, lambda payload: payload + UNKNOWN, *deep)
    (tmp_path / "m.onnx").write_bytes(data)
    result, _ = folded(tmp_path / "m.onnx")
    conv = [raw for number, raw in parts(result, 7) if number == 1]
    assert len(conv) == 1
    assert conv[0].count(UNKNOWN) == 2


def test_metadata_of_ours_is_replaced_and_foreign_kept():
    nodes, weights = conv_bn("a", "x", "y")
    model = net(nodes, {"x": [1, 4, 5, 5]}, ["y"], weights)
    for key, value in (("pkg.normfold.version", "old"), ("pkg.normfold.gone", "x"), ("pkg.normfolder", "foreign")):
        model.metadata_props.add(key=key, value=value)
    result = onnx.load_from_string(folded(model)[0])
    assert {e.key: e.value for e in result.metadata_props} == {
        "pkg.normfold.version": "test",
        "pkg.normfolder": "foreign",
    }


def branch(name, *, bn, outer=None):
    nodes, weights = conv_bn(name, outer or "x", f"{name}.y")
    if not bn:
        nodes = [node("Conv", ["x", f"{name}.w"], [f"{name}.y"], pads=[1, 1, 1, 1], name=f"{name}.conv")]
        weights = {f"{name}.w": weights[f"{name}.w"]}
    nodes.insert(0, helper.make_node("Identity", ["x"], [f"{name}.unused"], doc_string="sibling"))
    graph = helper.make_graph(
        nodes,
        name,
        [],
        [helper.make_empty_tensor_value_info(f"{name}.y")],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
        doc_string=f"branch {name}",
    )
    graph.metadata_props.add(key="b", value=name)
    return graph


def if_model():
    choose = helper.make_node("If", ["c"], ["y"], name="choose", doc_string="the choice")
    choose.attribute.append(graph_attribute("then_branch", branch("p", bn=True)))
    choose.attribute.append(graph_attribute("else_branch", branch("q", bn=False)))
    infos = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 5]),
    ]
    return net([choose, node("Relu", ["y"], ["z"])], infos, ["z"])


def test_an_edit_inside_if_keeps_the_siblings(tmp_path):
    model = if_model()
    data = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    result, plan = folded(tmp_path / "m.onnx")
    assert [d.code for d in plan.decisions] == ["NF101"]

    assert parts(result, 7)[1:] == parts(data, 7)[1:]
    (_, old_then), (_, old_else) = [p for p in parts(data, 7, 1) if p[0] == 5]
    (_, new_then), (_, new_else) = [p for p in parts(result, 7, 1) if p[0] == 5]
    assert new_else == old_else
    assert new_then != old_then
    assert [p for p in parts(result, 7, 1) if p[0] != 5] == [p for p in parts(data, 7, 1) if p[0] != 5]
    before, after = parts(data, 7, 1, 5, 6), parts(result, 7, 1, 5, 6)
    assert before[0] == after[0]  # the sibling node
    assert [p for p in after if p[0] not in (1, 5)] == [p for p in before if p[0] not in (1, 5)]

    x = np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)
    for flag in (True, False):
        a, b = (run(m, {"c": np.array(flag), "x": x})[0] for m in (model, onnx.load_from_string(result)))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_an_edit_inside_a_loop(tmp_path):
    nodes, weights = conv_bn("a", "state", "next")
    nodes.append(node("Identity", ["go"], ["on"]))
    body = helper.make_graph(
        nodes,
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, 4, 5, 5]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 4, 5, 5]),
        ],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    loop = node("Loop", ["n", "", "x"], ["y"])
    loop.attribute.append(graph_attribute("body", body))
    model = net([loop], {"x": [1, 4, 5, 5]}, ["y"], {"n": np.int64(2)})
    result, plan = folded(model)
    assert [d.code for d in plan.decisions] == ["NF101"]
    x = np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)
    a, b = (run(m, {"x": x})[0] for m in (model, onnx.load_from_string(result)))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_an_edit_inside_a_function_keeps_its_siblings():
    """A function body holds no initializers: its constants are nodes, and the untouched nodes keep their bytes."""
    nodes, weights = conv_bn("a", "x", "t")
    constants = [node("Constant", [], [k], value=numpy_helper.from_array(v, k)) for k, v in weights.items()]
    extra = [helper.make_node("Relu", ["t"], ["y"], doc_string="last")]
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "Block", ["x"], ["y"], [*constants, *nodes, *extra], imports)
    function.doc_string = "a block"
    other = helper.make_function("own", "Other", ["x"], ["y"], [node("Relu", ["x"], ["y"])], imports)
    call = [node("Block", ["u"], ["v"], domain="own"), node("Other", ["v"], ["w"], domain="own")]
    model = net(call, {"u": [1, 4, 5, 5]}, ["w"], functions=[function, other], domains=["own"])
    data = model.SerializeToString()
    result, plan = folded(model)
    old = [raw for number, raw in parts(data) if number == 25]
    new = [raw for number, raw in parts(result) if number == 25]
    assert new[1] == old[1]
    if any(d.code == "NF101" for d in plan.decisions):
        kept = [r for n, r in parts(data, 25) if n != 7 or b"Relu" in r]
        assert kept == [r for n, r in parts(result, 25) if n != 7 or b"Relu" in r]
        x = np.random.default_rng(1).normal(size=(1, 4, 5, 5)).astype(np.float32)
        a, b = (run(m, {"u": x})[0] for m in (model, onnx.load_from_string(result)))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    else:
        assert new == old


def test_a_large_constant_node_is_copied_not_parsed(tmp_path):
    big = numpy_helper.from_array(np.arange(5000, dtype=np.float32), "payload")
    nodes, weights = conv_bn("a", "x", "y")
    nodes.append(node("Constant", [], ["c"], value=big))
    data = net(nodes, {"x": [1, 4, 5, 5]}, ["y", "c"], weights).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    constant = next(n for n in load(tmp_path / "m.onnx").graph.nodes if n.op_type == "Constant")
    assert constant.proto.ByteSize() < 200
    assert constant.outline.tensors[0].array()[-1] == 4999
    result, _ = folded(tmp_path / "m.onnx")
    assert [r for n, r in parts(result, 7) if n == 1 and b"payload" in r] == [
        r for n, r in parts(data, 7) if n == 1 and b"payload" in r
    ]


def test_attributes_of_every_kind_survive_beside_graphs():
    """A node that is not parsed whole keeps its other attributes, tensors and types included."""
    model = if_model()
    choose = model.graph.node[0]
    choose.attribute.append(helper.make_attribute("numbers", list(range(2000))))
    choose.attribute.append(AttributeProto(name="t", type=AttributeProto.TENSOR, t=numpy_helper.from_array(np.ones(3))))
    loaded = load(model)
    (found,) = [n for n in loaded.graph.nodes if n.op_type == "If"]
    assert [a.name for a in found.proto.attribute] == ["then_branch", "else_branch", "numbers", "t"]
    assert list(found.outline.tensors) == [3]
    candidate = Candidate(loaded, {}, {})
    candidate.patch(loaded.graph)
    assert to_bytes(candidate) == model.SerializeToString(deterministic=True)


def test_frozen_initializers_leave_the_inputs_and_nothing_else_does():
    nodes, weights = conv_bn("a", "x", "y")
    inputs = {"x": [1, 4, 5, 5], **{name: list(value.shape) for name, value in weights.items()}}
    model = net(nodes, inputs, ["y"], weights)
    loaded = load(model, initializers=Initializers.FREEZE)
    plan = make_plan(loaded, Exclusions({}))
    result = onnx.load_from_string(to_bytes(apply(loaded, plan, {})))
    assert [i.name for i in result.graph.input] == ["x"]
    kept = load(model, initializers=Initializers.KEEP)
    plan = make_plan(kept, Exclusions({}))
    assert to_bytes(apply(kept, plan, {})) == model.SerializeToString(deterministic=True)
