"""Which files are models: the fault list as a table, and what a loaded model knows."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import SparseTensorProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from normfold.errors import InputError
from normfold.model import graph as graph_module
from normfold.model import outline
from normfold.model.constants import Constants
from normfold.model.load import Initializers, load
from normfold.surgery.planner import Exclusions, make_plan

from .build import conv_bn, field, graph_attribute, net, node

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"


def simple(**options):
    return net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], **options)


def refused(code, source):
    with pytest.raises(InputError) as caught:
        load(source)
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- versions ---


@pytest.mark.parametrize("ir", range(3, onnx.IR_VERSION + 1))
def test_ir_versions(ir):
    assert load(simple(ir=ir)).ir_version == ir


@pytest.mark.parametrize("opset", range(1, onnx.defs.onnx_opset_version() + 1))
def test_opsets(opset):
    assert load(simple(opset=opset)).graph.version == opset


@pytest.mark.parametrize("opset", [0, -1, onnx.defs.onnx_opset_version() + 1, 999, 2**62])
def test_unknown_opsets(opset):
    refused("opset.unknown", simple(opset=opset))


def test_missing_opset():
    model = simple()
    del model.opset_import[:]
    refused("opset.missing", model)
    model.ir_version = 2
    assert load(model).graph.version == 1


def test_one_domain_in_two_versions():
    model = simple()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 18))
    refused("opset.ambiguous", model)
    model.opset_import[1].version = 17
    assert load(model).graph.version == 17


def test_the_long_name_of_the_standard_domain():
    model = simple()
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    loaded = load(model)
    assert loaded.graph.version == 17
    assert loaded.graph.nodes[0].domain == ""


@pytest.mark.parametrize("version", [0, 1001, 2**40])
def test_senseless_ir_versions(version):
    model = simple()
    model.ir_version = version
    refused("ir.unknown", model)


def test_no_ir_version():
    model = simple()
    model.ClearField("ir_version")
    refused("input.malformed", model)


def test_unknown_domains_load():
    model = net([node("Strange", ["x"], ["y"], domain="odd")], {"x": [1]}, ["y"], domains=["odd"])
    assert load(model).graph.nodes[0].domain == "odd"


# --- structure ---


def test_no_graph_and_two_graphs(tmp_path):
    data = simple().SerializeToString()
    model = simple()
    model.ClearField("graph")
    refused("input.malformed", model)
    (tmp_path / "m.onnx").write_bytes(data + data)
    refused("input.malformed", tmp_path / "m.onnx")


@pytest.mark.parametrize("garbage", [b"\x00", b"\x00" * 64, b"garbage!", b"\xff" * 9, b"\x0a"])
def test_trailing_garbage(tmp_path, garbage):
    (tmp_path / "m.onnx").write_bytes(simple().SerializeToString() + garbage)
    assert "byte" in refused("input.malformed", tmp_path / "m.onnx")


def test_truncation(tmp_path):
    """Cut at every 1/32: never a traceback, and never a model."""
    nodes, weights = conv_bn("a", "x", "y", channels=16)
    data = net(nodes, {"x": [1, 16, 4, 4]}, ["y"], weights).SerializeToString()
    path = tmp_path / "m.onnx"
    for i in range(32):
        path.write_bytes(data[: len(data) * i // 32])
        with pytest.raises(InputError) as caught:
            load(path)
        assert caught.value.code in ("input.empty", "input.malformed", "opset.missing", "graph.dangling")


def test_every_damaged_byte_is_a_model_or_an_input_error(tmp_path):
    nodes, weights = conv_bn("a", "x", "y", channels=2)
    data = bytearray(net(nodes, {"x": [1, 2, 4, 4]}, ["y"], weights).SerializeToString())
    rng = np.random.default_rng(0)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "m.onnx").write_bytes(broken)
        try:
            model = load(tmp_path / "m.onnx")
            make_plan(model, Exclusions({}))
        except InputError:
            continue


@pytest.mark.parametrize(
    ("code", "nodes", "outputs"),
    [
        ("graph.dangling", [node("Relu", ["none"], ["y"])], ["y"]),
        ("graph.dangling", [node("Relu", ["x"], ["y"])], ["none"]),
        ("graph.cycle", [node("Add", ["x", "y"], ["y"])], ["y"]),
        ("graph.cycle", [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"])], ["b"]),
        ("graph.ssa", [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])], ["y"]),
        ("graph.ssa", [node("Split", ["x"], ["y", "y"])], ["y"]),
        ("graph.ssa", [node("Relu", ["x"], ["x"])], ["x"]),
        ("graph.ssa", [node("Relu", ["x"], ["w"])], ["w"]),
    ],
)
def test_broken_graphs(code, nodes, outputs):
    refused(code, net(nodes, {"x": [2]}, outputs, {"w": np.ones(2, np.float32)}))


def test_a_node_that_reads_itself_through_a_branch_is_a_cycle():
    inner = helper.make_graph([node("Relu", ["y"], ["i"])], "b", [], [helper.make_empty_tensor_value_info("i")])
    choose = node("If", ["c"], ["y"])
    for name in ("then_branch", "else_branch"):
        choose.attribute.append(graph_attribute(name, inner))
    refused("graph.cycle", net([choose], {"c": []}, ["y"]))


def test_duplicate_initializers_and_inputs():
    model = simple(weights={"w": np.float32(1)})
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "w"))
    refused("graph.ssa", model)
    model = simple()
    model.graph.input.append(model.graph.input[0])
    refused("graph.ssa", model)
    model = simple()
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), ""))
    refused("graph.ssa", model)


def test_two_constants_of_one_name_are_refused():
    """onnxruntime takes the last one, whatever was read before: it computes something else than was meant."""
    nodes = [
        node("Constant", [], ["d"], value=numpy_helper.from_array(np.float32(12))),
        node("Div", ["x", "d"], ["y"]),
        node("Constant", [], ["d"], value=numpy_helper.from_array(np.float32(2))),
    ]
    assert "'d'" in refused("graph.ssa", net(nodes, {"x": [1]}, ["y"]))
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(net(nodes, {"x": [1]}, ["y"]))


def test_optional_inputs_and_outputs_are_none():
    model = net(
        [node("Clip", ["x", "", "hi"], ["y"]), node("Dropout", ["y"], ["z", ""])],
        {"x": [1]},
        ["z"],
        {"hi": np.float32(1)},
    )
    clip, dropout = load(model).graph.nodes
    assert clip.inputs[1] is None
    assert clip.input(7) is None
    assert dropout.outputs[1] is None
    assert dropout.named_outputs() == 1


def test_unsorted_nodes_are_sorted_and_said():
    nodes = [node("Relu", ["b"], ["c"]), node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["b"])]
    loaded = load(net(nodes, {"x": [1]}, ["c"]))
    assert [n.output.name for n in loaded.graph.nodes] == ["a", "b", "c"]
    assert [n.index for n in loaded.graph.nodes] == [1, 2, 0]
    assert len(loaded.warnings) == 1
    assert load(simple()).warnings == []


def test_captured_values_order_the_nodes_outside():
    inner = helper.make_graph([node("Relu", ["late"], ["i"])], "b", [], [helper.make_empty_tensor_value_info("i")])
    choose = node("If", ["c"], ["y"])
    for name in ("then_branch", "else_branch"):
        choose.attribute.append(graph_attribute(name, inner))
    infos = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [1])]
    loaded = load(net([choose, node("Neg", ["x"], ["late"])], infos, ["y"]))
    assert [n.op_type for n in loaded.graph.nodes] == ["Neg", "If"]


@pytest.mark.timeout(60)
def test_a_reversed_chain_of_20000_nodes(monkeypatch):
    length = 20_000
    nodes = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in reversed(range(length))]
    steps = 0
    real = graph_module._producers

    def counted(item):
        nonlocal steps
        steps += 1
        return real(item)

    monkeypatch.setattr(graph_module, "_producers", counted)
    loaded = load(net(nodes, {"v0": [1]}, [f"v{length}"]))
    assert [n.index for n in loaded.graph.nodes] == list(reversed(range(length)))
    assert steps <= length


def nested(depth):
    inner = helper.make_graph([node("Relu", ["x"], ["y0"])], "g0", [], [helper.make_empty_tensor_value_info("y0")])
    for level in range(1, depth + 1):
        choose = node("If", ["c"], [f"y{level}"])
        choose.attribute.append(graph_attribute("then_branch", inner))
        choose.attribute.append(graph_attribute("else_branch", leaf(level)))
        inner = helper.make_graph([choose], f"g{level}", [], [helper.make_empty_tensor_value_info(f"y{level}")])
    return inner


def leaf(level):
    return helper.make_graph(
        [node("Neg", ["x"], [f"e{level}"])], "e", [], [helper.make_empty_tensor_value_info(f"e{level}")]
    )


def nested_bytes(depth):
    """Deep nesting by hand: protobuf itself would refuse to parse it."""
    info = helper.make_empty_tensor_value_info("y").SerializeToString()
    graph = field(1, node("Relu", ["x"], ["y"])) + field(12, info)
    for _ in range(depth):
        choose = field(1, b"c") + field(2, b"y") + field(4, b"If")
        choose += field(5, field(1, b"then_branch") + field(6, graph) + field(20, 5))
        graph = field(1, choose) + field(12, info)
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [1])]
    graph += b"".join(field(11, info) for info in inputs)
    return field(1, 8) + field(7, graph) + field(8, helper.make_opsetid("", 17))


@pytest.mark.parametrize("depth", [1, 5, 29])
def test_nesting_that_loads(tmp_path, depth):
    (tmp_path / "m.onnx").write_bytes(nested_bytes(depth))
    assert len(load(tmp_path / "m.onnx").scopes()) == depth + 1


@pytest.mark.parametrize("depth", [32, 40, 200, 3000])
def test_nesting_that_is_too_deep(tmp_path, depth):
    (tmp_path / "m.onnx").write_bytes(nested_bytes(depth))
    assert "nested" in refused("proto.depth", tmp_path / "m.onnx")


def test_nested_scopes_capture_from_every_level():
    inner = nested(3)
    infos = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [1])]
    model = net(list(inner.node), infos, ["y3"])
    loaded = load(model)
    assert len(loaded.scopes()) == 7
    assert len(loaded.graph.values["x"].uses) == 4
    assert all(v.scope is loaded.graph for v in loaded.graph.inputs)
    assert {scope.path for scope in loaded.scopes()} >= {"graph", "graph:0/then_branch"}
    assert len({n.key for scope in loaded.scopes() for n in scope.nodes}) == 7


# --- functions ---


def test_functions_are_scopes():
    imports = [helper.make_opsetid("", 18)]
    function = helper.make_function("own", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], imports)
    loaded = load(
        net([node("F", ["x"], ["y"], domain="own")], {"x": [1]}, ["y"], functions=[function], domains=["own"])
    )
    ((_, scope),) = loaded.functions
    assert scope.is_function
    assert scope.version == 18
    assert scope.path == "function own::F"
    assert [v.name for v in scope.inputs] == ["a"]
    assert scope.outputs[0].producer is scope.nodes[0]


def test_functions_with_equal_names_have_their_own_keys():
    imports = [helper.make_opsetid("", 18)]
    functions = []
    for overload in ("", "second"):
        function = helper.make_function("own", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], imports)
        function.overload = overload
        functions.append(function)
    loaded = load(
        net([node("F", ["x"], ["y"], domain="own")], {"x": [1]}, ["y"], functions=functions, domains=["own"], ir=10)
    )
    keys = [n.key for scope in loaded.scopes() for n in scope.nodes]
    assert len(set(keys)) == len(keys)


def test_names_that_are_no_text(tmp_path):
    function = helper.make_function(
        "own", "F", ["aa"], ["b"], [node("Relu", ["aa"], ["b"])], [helper.make_opsetid("", 18)]
    )
    call = [node("F", ["x"], ["y"], domain="own")]
    data = net(call, {"x": [1]}, ["y"], functions=[function], domains=["own"]).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(b"\x02aa", b"\x02\xff\xfe"))
    refused("input.malformed", tmp_path / "m.onnx")


def test_a_value_bound_by_the_caller_is_no_constant():
    constant = helper.make_node("Constant", [], ["k"])
    constant.attribute.add(name="value_float", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    body = [constant, node("Mul", ["a", "k"], ["b"])]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 18)], ["alpha"])
    model = net(
        [node("F", ["x"], ["y"], domain="own", alpha=3.0)], {"x": [1]}, ["y"], functions=[function], domains=["own"]
    )
    loaded = load(model)
    assert Constants().get(loaded.functions[0][1].values["k"]) is None


# --- tensors in the outline ---


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("tensor.dims", lambda t: t.dims.append(-1)),
        ("tensor.dims", lambda t: t.dims.extend([2**40, 2**40])),
        ("tensor.payload", lambda t: setattr(t, "data_location", TensorProto.EXTERNAL)),
    ],
)
@pytest.mark.parametrize("size", [4, 5000])
def test_tensors_that_cannot_be(code, change, size):
    tensor = numpy_helper.from_array(np.ones(size, np.float32), "w")
    if code == "tensor.dims":
        del tensor.dims[:]
    change(tensor)
    refused(code, simple(weights={"w": tensor}))


@pytest.mark.parametrize(
    "entries",
    [
        [("location", "w"), ("location", "v")],
        [("location", "w"), ("offset", "-1")],
        [("location", "w"), ("offset", "x")],
        [("location", "w"), ("offset", "1.5")],
        [("location", "w"), ("offset", "1_0")],
        [("location", "w"), ("offset", " 1")],
        [("location", "w"), ("offset", "٣")],
        [("location", "w"), ("offset", "9" * 30)],
        [("location", "w"), ("offset", "9" * 5000)],
        [("location", "w"), ("length", "-4")],
        [("location", "w"), ("length", "4e0")],
        [("location", "w"), ("basepath", "/etc")],
        [("location", "w"), ("__class__", "x")],
    ],
)
def test_external_records_that_cannot_be(entries):
    tensor = TensorProto(name="w", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.extend(StringStringEntryProto(key=k, value=v) for k, v in entries)
    refused("extdata.record", simple(weights={"w": tensor}))


@pytest.mark.parametrize("location", ["../w", "a/../../w", "/etc/passwd", "C:\\w", "w\\v", "", "a\0b"])
@pytest.mark.parametrize("where", ["initializer", "constant", "branch", "function"])
def test_locations_are_judged_at_once_wherever_they_stand(location, where):
    tensor = TensorProto(name="w", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.extend([StringStringEntryProto(key="location", value=location)])
    constant = node("Constant", [], ["k"], value=tensor)
    if where == "initializer":
        model = simple(weights={"w": tensor})
    elif where == "constant":
        model = net([constant, node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"])
    elif where == "branch":
        body = helper.make_graph([constant], "b", [], [helper.make_empty_tensor_value_info("k")])
        choose = node("If", ["x"], ["y"])
        choose.attribute.append(graph_attribute("then_branch", body))
        model = net([choose], {"x": [1]}, ["y"])
    else:
        function = helper.make_function("own", "F", [], ["k"], [constant], [helper.make_opsetid("", 18)])
        model = net([node("F", [], ["y"], domain="own")], {"x": [1]}, ["y"], functions=[function], domains=["own"])
    with pytest.raises(InputError) as caught:
        load(model)
    assert caught.value.code in ("extdata.escape", "extdata.location")


@pytest.mark.parametrize("place", ["sparse", "tensors", "sparse attribute"])
def test_external_data_where_no_runtime_looks_is_refused(place):
    tensor = TensorProto(name="w", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.extend([StringStringEntryProto(key="location", value="w.data")])
    indices = numpy_helper.from_array(np.int64([0]), "i")
    model = simple()
    if place == "sparse":
        model.graph.sparse_initializer.append(SparseTensorProto(values=tensor, indices=indices, dims=[4]))
    elif place == "tensors":
        model.graph.node[0].attribute.add(name="many", type=onnx.AttributeProto.TENSORS, tensors=[tensor])
    else:
        sparse = SparseTensorProto(values=tensor, indices=indices, dims=[4])
        model.graph.node[0].attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse)
    refused("extdata.record", model)


def test_zero_size_dims_are_legal():
    loaded = load(simple(weights={"w": np.ones((0, 3), np.float32)}))
    assert loaded.graph.values["w"].tensor.array().shape == (0, 3)


def test_large_payloads_are_not_parsed(tmp_path, monkeypatch):
    """What protobuf sees of a model is its structure."""
    big = np.zeros(1 << 20, np.float32)
    nodes = [node("Constant", [], ["k"], value=numpy_helper.from_array(big)), node("Relu", ["w"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(net(nodes, {}, ["y"], {"w": big}).SerializeToString())
    seen = 0
    real = outline.parse

    def counted(kind, data):
        nonlocal seen
        seen += len(data)
        return real(kind, data)

    monkeypatch.setattr(outline, "parse", counted)
    tracemalloc.start()
    loaded = load(tmp_path / "m.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen < 2000
    assert peak < 1 << 20
    assert loaded.graph.values["w"].tensor.array().shape == (1 << 20,)


def test_a_model_proto_is_not_changed_and_equals_its_file(tmp_path):
    nodes, weights = conv_bn("a", "x", "y")
    model = net(nodes, {"x": [1, 4, 5, 5]}, ["y"], weights)
    before = model.SerializeToString(deterministic=True)
    load(model)
    assert model.SerializeToString(deterministic=True) == before


def test_external_data_without_a_file():
    tensor = TensorProto(name="w", dims=[1], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.extend([StringStringEntryProto(key="location", value="w.data")])
    loaded = load(simple(weights={"w": tensor}))
    with pytest.raises(InputError) as caught:
        loaded.graph.values["w"].tensor.array()
    assert caught.value.code == "extdata.no_directory"


# --- initializers that are inputs ---


def exposed(names, ir=8):
    nodes, weights = conv_bn("a", "x", "t")
    nodes.append(node("Mul", ["t", "gain"], ["y"]))
    weights["gain"] = np.ones((1, 4, 1, 1), np.float32)
    inputs = {"x": [1, 4, 5, 5], **{name: list(weights[name].shape) for name in names}}
    return net(nodes, inputs, ["y"], weights, ir=ir)


EVERY = ["a.w", "a.scale", "a.shift", "a.mean", "a.var", "gain"]


@pytest.mark.parametrize(
    ("names", "policy", "ir", "frozen", "kept"),
    [
        (EVERY, "auto", 8, EVERY, []),
        (["a.w", "gain"], "auto", 8, ["a.w", "gain"], []),
        (["gain"], "auto", 8, [], ["gain"]),
        (["a.scale"], "auto", 8, [], ["a.scale"]),
        ([], "auto", 8, [], []),
        (EVERY, "keep", 8, [], EVERY),
        (["gain"], "freeze", 8, ["gain"], []),
        (EVERY, "auto", 3, [], []),
        (EVERY, "keep", 3, [], []),
        (EVERY, "freeze", 3, [], []),
        (EVERY, "auto", 4, EVERY, []),
    ],
)
def test_the_policy_for_overridable_initializers(names, policy, ir, frozen, kept):
    loaded = load(exposed(names, ir), initializers=Initializers(policy))
    assert (list(loaded.frozen), list(loaded.kept_exposed)) == (frozen, kept)
    assert {v.name for v in loaded.graph.values.values() if v.exposed} == set(kept)


# --- scale ---


def chain(blocks, channels=4):
    rng = np.random.default_rng(0)
    nodes, weights, before = [], {}, "x"
    for i in range(blocks):
        weights[f"{i}.w"] = rng.normal(size=(channels, channels, 1, 1)).astype(np.float32)
        for part in ("s", "b", "m", "v"):
            weights[f"{i}.{part}"] = np.ones(channels, np.float32)
        nodes += [
            node("Conv", [before, f"{i}.w"], [f"{i}.c"]),
            node("BatchNormalization", [f"{i}.c", f"{i}.s", f"{i}.b", f"{i}.m", f"{i}.v"], [f"{i}.n"]),
            node("Relu", [f"{i}.n"], [f"{i}.r"]),
        ]
        before = f"{i}.r"
    return net(nodes, {"x": [1, channels, 2, 2]}, [before], weights)


def work(blocks):
    """Python calls that loading and planning a chain makes."""
    data = chain(blocks)
    count = 0

    def tally(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(tally)
    try:
        model = load(data)
        plan = make_plan(model, Exclusions({}))
    finally:
        sys.setprofile(None)
    assert len(plan.edits) == blocks
    return count


def test_the_work_of_loading_and_planning_grows_with_the_model():
    assert work(800) < 2.2 * work(400)


def test_thirty_thousand_nodes_load_and_plan():
    model = load(chain(10_000, channels=1))
    assert len(model.graph.nodes) == 30_000
    assert len(make_plan(model, Exclusions({})).edits) == 10_000


def test_one_constant_with_many_readers():
    nodes = [node("Mul", ["x", "k"], [f"y{i}"]) for i in range(20_000)]
    loaded = load(net(nodes, {"x": [1]}, ["y0"], {"k": np.float32(2)}))
    assert len(loaded.graph.values["k"].uses) == 20_000


def test_a_hundred_thousand_tiny_initializers():
    weights = {f"w{i}": numpy_helper.from_array(np.uint8(1), f"w{i}") for i in range(20_000)}
    assert len(load(simple(weights=weights)).graph.values) == 20_002


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is not here")
def test_the_corpus_file_with_twice_defined_constants():
    path = CORPUS / "peer_fusion" / "ort_transformers" / "gpt2_past.onnx"
    if path.exists():
        refused("graph.ssa", path)
