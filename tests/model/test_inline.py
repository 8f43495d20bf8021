"""Calls replaced by bodies: keys, names, bytes of what is not replaced, and that the result is the same function."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, ModelProto, NodeProto, helper, parser
from onnx.reference import ReferenceEvaluator

from normfold.model.functions import Functions
from normfold.model.inline import Inlined, inline
from normfold.model.load import Model, load
from normfold.model.patch import Candidate, ScopePatch
from normfold.model.write import to_bytes

HEAD = '<ir_version: 10, opset_import: ["" : 17, "own" : 1]>'
FUNCTION = '<domain: "own", opset_import: ["" : 17, "own" : 1]>'
TWICE = "twice (a) => (b) { c = Sin(a) b = Add(c, c) }"
OUTER = "outer (a) => (b) { c = own.twice (a) d = Cos(c) b = own.twice (d) }"


def model_of(body: str, *functions: str, inputs: str = "float[3] x", outputs: str = "float[3] y") -> ModelProto:
    text = f"{HEAD} g ({inputs}) => ({outputs}) {{ {body} }}"
    return parser.parse_model(text + "".join(f" {FUNCTION} {function}" for function in functions))


def written(model: Model) -> ModelProto:
    """What would be written if the inlined model were all that changed."""
    return ModelProto.FromString(to_bytes(Candidate(model, {id(model.graph): ScopePatch()}, {})))


def keys(inlined: Inlined) -> list[str]:
    return [node.key for node in inlined.model.graph.nodes]


def test_keys_do_not_depend_on_what_else_is_inlined():
    model = load(model_of("s = own.twice (x) t = own.outer (s) y = Neg(t)", TWICE, OUTER))
    assert keys(inline(model)) == [
        "graph:0/twice:0",
        "graph:0/twice:1",
        "graph:1/outer:0/twice:0",
        "graph:1/outer:0/twice:1",
        "graph:1/outer:1",
        "graph:1/outer:2/twice:0",
        "graph:1/outer:2/twice:1",
        "graph:2",
    ]
    some = inline(model, ["graph:1", "graph:1/outer:2"])
    assert keys(some) == [
        "graph:0", "graph:1/outer:0", "graph:1/outer:1", "graph:1/outer:2/twice:0", "graph:1/outer:2/twice:1", "graph:2",
    ]  # fmt: skip
    assert [node.call for node in some.model.graph.nodes] == [
        None, "graph:1", "graph:1", "graph:1/outer:2", "graph:1/outer:2", None,
    ]  # fmt: skip
    assert some.calls["graph:1/outer:2"].outer == "graph:1"
    assert [node.body_key for node in some.model.graph.nodes][3] == "function own::twice:0"


def test_nothing_wanted_is_the_model_itself():
    model = load(model_of("y = own.twice (x)", TWICE))
    assert inline(model, ()).model is model


def test_the_original_is_not_changed():
    proto = model_of("y = own.outer (x)", TWICE, OUTER)
    model = load(proto)
    inline(model)
    assert [node.op_type for node in model.graph.nodes] == ["outer"]
    assert len(model.functions) == 2
    assert to_bytes(Candidate(model, {}, {})) == proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("wanted", [None, ["graph:0"], ["graph:1"], ["graph:1", "graph:1/outer:0"]])
def test_it_is_the_same_function(wanted):
    proto = model_of("s = own.twice (x) y = own.outer (s)", TWICE, OUTER)
    result = written(inline(load(proto), wanted).model)
    onnx.checker.check_model(result, full_check=True)
    feed = {"x": np.float32([0.1, -2, 3])}
    (old,), (new,) = (ReferenceEvaluator(m).run(None, feed) for m in (proto, result))
    np.testing.assert_array_equal(old, new)


def test_functions_go_with_their_last_call():
    model = load(model_of("s = own.twice (x) y = own.outer (s)", TWICE, OUTER))
    left = [[f.name for f in written(inline(model, w).model).functions] for w in ((), ["graph:1"], None)]
    assert left == [["twice", "outer"], ["twice"], []]


def shuffled(message: NodeProto | FunctionProto) -> bytes:
    """The same message with its last field in front, as no serialiser writes it."""
    data = message.SerializeToString()
    last = type(message)()
    last.doc_string = message.doc_string
    tail = last.SerializeToString()
    assert tail
    return tail + data.replace(tail, b"")


def test_what_is_not_inlined_is_copied(tmp_path):
    proto = model_of("s = own.twice (x) y = own.outer (s)", TWICE, OUTER)
    call, function = proto.graph.node[0], proto.functions[0]
    call.doc_string, function.doc_string = "left alone", "left alone, too"
    data = proto.SerializeToString()
    for part in (call, function):
        assert data.count(part.SerializeToString()) == 1
        data = data.replace(part.SerializeToString(), shuffled(part))
    (tmp_path / "m.onnx").write_bytes(data)
    model = inline(load(tmp_path / "m.onnx"), ["graph:1"]).model
    result = to_bytes(Candidate(model, {id(model.graph): ScopePatch()}, {}))
    for part in (call, function):
        assert shuffled(part) in result


def test_large_nodes_stay_where_they_are():
    """A constant in the graph beside a call is not copied through protobuf."""
    big = helper.make_tensor("k", 1, [3000], np.arange(3000, dtype=np.float32).tobytes(), raw=True)
    body = "k = Constant<value = float {0.0}>() s = own.twice (x) y = Add(s, k)"
    proto = model_of(body, TWICE, inputs="float[3000] x", outputs="float[3000] y")
    proto.graph.node[0].attribute[0].t.CopyFrom(big)
    result = written(inline(load(proto)).model)
    assert result.graph.node[0] == proto.graph.node[0]
    assert [node.op_type for node in result.graph.node] == ["Constant", "Sin", "Add", "Add"]


def test_sizes_are_added_up_and_not_expanded():
    chain = [f"f{i} (a) => (b) {{ c = own.f{i + 1} (a) b = own.f{i + 1} (c) }}" for i in range(20)]
    model = load(model_of("y = own.f0 (x)", *chain, "f20 (a) => (b) { b = Sin(a) }"))
    function = Functions(model.functions).of(model.graph.nodes[0])
    assert function is not None
    assert function.nodes == 2**20 + 2 * (2**20 - 1)
    assert function.levels == 21
    assert inline(model).refused["graph:0"].obstacle[0] == "inline-size"
