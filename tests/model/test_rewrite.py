"""Other nodes in the place of some: keys, order, constants, declarations, imports, and the bytes of what stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from normfold.model.graph import Scope
from normfold.model.load import Model, load
from normfold.model.patch import Candidate, ScopePatch
from normfold.model.rewrite import Names, Rewrite, rewrite, sweep
from normfold.model.write import to_bytes
from tests.model.build import run

HEAD = '<ir_version: {ir}, opset_import: ["" : 17, "own" : 1]>'
FUNCTION = '<domain: "own", opset_import: ["" : 17]>'
CHAIN = "a = Relu(x) b = Neg(a) y = Abs(b)"
NEST = (
    "y = If (q) <then_branch = t () => (float[3] r) { r = Neg(x) }, else_branch = e () => (float[3] s) { s = Abs(x) }>"
)


def model_of(body: str, *functions: str, inputs: str = "float[3] x", ir: int = 8, outputs: str = "float[3] y") -> Model:
    text = f"{HEAD.format(ir=ir)} g ({inputs}) => ({outputs}) {{ {body} }}"
    return load(parser.parse_model(text + "".join(f" {FUNCTION} {function}" for function in functions)))


def written(model: Model) -> ModelProto:
    """What would be written if nothing else changed."""
    return ModelProto.FromString(to_bytes(Candidate(model, {id(model.graph): ScopePatch()}, {})))


def node(op_type: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def texts(graph: onnx.GraphProto | onnx.FunctionProto) -> list[str]:
    return [f"{' '.join(n.output)} = {n.op_type}({' '.join(n.input)})" for n in graph.node]


def changed(model: Model, scope: Scope | None = None, imports: object = None, **change: object) -> Model:
    return rewrite(model, {id(scope or model.graph): Rewrite(**change)}, imports)  # type: ignore[arg-type]


# --- nodes ---


def test_nodes_instead_in_front_and_behind() -> None:
    model = model_of(CHAIN)
    result = changed(
        model,
        nodes={1: [node("Sin", "a2", "t"), node("Cos", "t", "b")]},
        front={1: [node("Tan", "a", "a2")]},
        behind={0: [node("Exp", "a", "side")]},
    )
    assert texts(written(result).graph) == [
        "a = Relu(x)", "side = Exp(a)", "a2 = Tan(a)", "t = Sin(a2)", "b = Cos(t)", "y = Abs(b)",
    ]  # fmt: skip
    assert [item.key for item in result.graph.nodes] == [
        "graph:0", "graph:0>0", "graph:1<0", "graph:1~0", "graph:1~1", "graph:2",
    ]  # fmt: skip


def test_neighbours_of_a_node_that_goes_stay() -> None:
    result = changed(model_of(CHAIN), nodes={1: []}, front={1: [node("Sin", "a", "b")]})
    assert texts(written(result).graph) == ["a = Relu(x)", "b = Sin(a)", "y = Abs(b)"]


def test_the_original_is_not_changed() -> None:
    model = model_of(CHAIN)
    before, keys = bytes(model.buffer), [item.key for item in model.graph.nodes]
    result = changed(model, nodes={1: [node("Sin", "a", "b")]})
    assert bytes(model.buffer) == before
    assert [item.key for item in model.graph.nodes] == keys
    assert not model.is_rewritten
    assert result.is_rewritten


def test_no_change_is_the_same_graph() -> None:
    model = model_of(CHAIN)
    assert rewrite(model, {}).graph is model.graph
    assert rewrite(model, {id(model.graph): Rewrite()}).graph is model.graph


def test_what_stays_is_a_range_of_the_file() -> None:
    """An unknown field of a node comes out byte for byte, before and behind one that was replaced."""
    proto = onnx.ModelProto.FromString(bytes(model_of(CHAIN).buffer))
    strange = b"\x9a\x06\x03abc"  # field 99, three bytes
    for at in (0, 2):
        proto.graph.node[at].MergeFromString(strange)
    result = written(changed(load(proto), nodes={1: [node("Sin", "a", "b")]}))
    assert [strange in item.SerializeToString() for item in result.graph.node] == [True, False, True]


def test_a_second_rewrite_names_what_the_first_one_made() -> None:
    once = changed(model_of(CHAIN), nodes={1: [node("Sin", "a", "t"), node("Cos", "t", "b")]})
    twice = changed(once, nodes={1: [], 2: [node("Tan", "a", "b")]})
    assert texts(written(twice).graph) == ["a = Relu(x)", "b = Tan(a)", "y = Abs(b)"]
    assert [item.key for item in twice.graph.nodes] == ["graph:0", "graph:1~1~0", "graph:2"]


def test_dangling_and_double_names_are_noticed() -> None:
    model = model_of(CHAIN)
    with pytest.raises(Exception, match="'y' is never produced"):
        changed(model, nodes={2: []})
    with pytest.raises(Exception, match="'a' is defined twice"):
        changed(model, nodes={1: [node("Sin", "a", "a")]})


# --- bodies and functions ---


def test_in_a_branch_alone() -> None:
    model = model_of(NEST, inputs="float[3] x, bool q")
    then, _ = model.graph.nodes[0].subgraphs
    result = written(changed(model, then, nodes={0: [node("Sin", "x", "r")]}))
    (outer,) = result.graph.node
    bodies = {a.name: a.g for a in outer.attribute}
    assert texts(bodies["then_branch"]) == ["r = Sin(x)"]
    assert texts(bodies["else_branch"]) == ["s = Abs(x)"]
    untouched = {a.name: a.g for a in ModelProto.FromString(bytes(model.buffer)).graph.node[0].attribute}
    assert bodies["else_branch"] == untouched["else_branch"]
    x = np.float32([1, 2, 3])
    np.testing.assert_allclose(run(result, {"x": x, "q": np.array(True)})[0], np.sin(x), rtol=1e-6)
    np.testing.assert_array_equal(run(result, {"x": x, "q": np.array(False)})[0], x)


def test_in_a_branch_and_around_it() -> None:
    model = model_of(f"z = Relu(x) {NEST.replace('Neg(x)', 'Neg(z)')}", inputs="float[3] x, bool q")
    then, _ = model.graph.nodes[1].subgraphs
    changes = {
        id(then): Rewrite(nodes={0: [node("Sin", "z2", "r")]}),
        id(model.graph): Rewrite(nodes={0: [node("Abs", "x", "z2")]}),
    }
    result = written(rewrite(model, changes))
    assert texts(result.graph)[0] == "z2 = Abs(x)"
    assert run(result, {"x": np.float32([-1, 2, 3]), "q": np.array(True)})[0][0] == pytest.approx(np.sin(1))


def test_in_a_function_constants_are_nodes() -> None:
    model = model_of("y = own.f (x)", "f (a) => (b) { b = Neg(a) }")
    ((_, scope),) = model.functions
    two = numpy_helper.from_array(np.float32(2), "two")
    result = changed(model, scope, nodes={0: [node("Mul", "a two", "b")]}, constants=[two])
    proto = written(result)
    assert texts(proto.functions[0]) == ["two = Constant()", "b = Mul(a two)"]
    assert not proto.functions[0].node[0].attribute[0].t.name
    assert result.graph is model.graph
    np.testing.assert_array_equal(run(proto, {"x": np.float32([1, 2, 3])})[0], [2, 4, 6])


def test_calls_are_calls_still() -> None:
    """A function may have the name of an operator of the standard's domain; nobody may take its call for that."""
    model = model_of("a = own.f (x) y = Relu(a)", "f (a) => (b) { b = Neg(a) }")
    result = changed(model, nodes={1: [node("Abs", "a", "y")]})
    assert [item.is_call for item in result.graph.nodes] == [True, False]


# --- constants ---


@pytest.mark.parametrize(("ir", "as_node"), [(3, True), (4, False), (8, False)])
def test_constants_are_initializers_where_those_need_not_be_inputs(ir: int, as_node: bool) -> None:
    model = model_of(CHAIN, ir=ir)
    two = numpy_helper.from_array(np.float32([2, 2, 2]), "two")
    proto = written(changed(model, nodes={1: [node("Mul", "a two", "b")]}, constants=[two]))
    assert (proto.graph.node[0].op_type == "Constant") is as_node
    assert [t.name for t in proto.graph.initializer] == ([] if as_node else ["two"])
    assert [info.name for info in proto.graph.input] == ["x"]
    np.testing.assert_array_equal(run(proto, {"x": np.float32([-1, 2, 3])})[0], [0, 4, 6])


def test_the_bytes_of_a_constant_are_kept() -> None:
    values = np.float16([1.001, -0.0, np.inf])
    tensor = numpy_helper.from_array(values, "c")
    model = model_of("y = Relu(x)", inputs="float16[3] x", outputs="float16[3] y")
    proto = written(changed(model, nodes={0: [node("Add", "x c", "y")]}, constants=[tensor]))
    assert proto.graph.initializer[0].raw_data == values.tobytes()
    assert proto.graph.initializer[0].data_type == TensorProto.FLOAT16


# --- declarations and imports ---


def test_forgotten_values_are_not_declared() -> None:
    proto = ModelProto.FromString(bytes(model_of(CHAIN).buffer))
    proto.graph.value_info.extend(helper.make_tensor_value_info(name, 1, [3]) for name in "ab")
    result = written(changed(load(proto), nodes={0: [], 1: [node("Sin", "x", "b")]}, forgotten={"a"}))
    assert [info.name for info in result.graph.value_info] == ["b"]


def test_imports_of_one_root() -> None:
    model = model_of("a = own.f (x) y = Relu(a)", "f (a) => (b) { b = Neg(a) }")
    imports = {"graph": {"": 18, "own": 1, "com.microsoft": 1}}
    result = changed(model, nodes={1: [node("Abs", "a", "y")]}, imports=imports)
    proto = written(result)
    assert {e.domain: e.version for e in proto.opset_import} == imports["graph"]
    assert {e.domain: e.version for e in proto.functions[0].opset_import} == {"": 17}
    assert (result.opset[""], result.graph.version) == (18, 18)
    assert all(item.scope.version == 18 for item in result.graph.nodes)


def test_imports_of_a_function_alone() -> None:
    model = model_of("y = own.f (x)", "f (a) => (b) { b = Neg(a) }")
    ((_, scope),) = model.functions
    proto = written(rewrite(model, {}, {scope.path: {"": 17, "com.microsoft": 1}}))
    assert {e.domain: e.version for e in proto.functions[0].opset_import} == {"": 17, "com.microsoft": 1}
    assert {e.domain: e.version for e in proto.opset_import} == {"": 17, "own": 1}


# --- what lost its readers ---


def test_a_constant_without_readers_is_known_after_a_second_rewrite() -> None:
    """Whoever writes the file drops it; the value is that of the model at hand, not of the one before."""
    proto = ModelProto.FromString(
        bytes(model_of("a = Add(x, c) b = Neg(a) y = Abs(b)", inputs="float[3] x, float[3] c").buffer)
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2, 3]), "c"))
    del proto.graph.input[1]
    once = changed(load(proto), nodes={0: [node("Sin", "x", "a")]})
    twice = changed(once, nodes={1: [node("Cos", "a", "b")]})
    for result in (once, twice):
        assert list(result.unread) == [result.graph.values["c"]]


# --- names ---


def test_fresh_names_are_nobodys() -> None:
    proto = parser.parse_model(f"{HEAD.format(ir=8)} g (float[3] x, bool q) => (float[3] y) {{ {NEST} }}")
    proto.graph.node[0].name = "branch"
    names = Names(load(proto))
    assert [names.fresh(hint) for hint in ("x", "r", "branch", "new", "new", "")] == [
        "x_1", "r_1", "branch_1", "new", "new_1", "_1",
    ]  # fmt: skip


def test_a_hint_that_looks_like_a_fresh_name() -> None:
    names = Names(model_of("a_1 = Relu(x) a = Neg(a_1) y = Abs(a)"))
    assert [names.fresh("a"), names.fresh("a"), names.fresh("a_1")] == ["a_2", "a_3", "a_1_1"]


# --- what nobody needs any more ---


def swept(model: Model, gone: list[int], kept: set[str] = frozenset()) -> list[int]:  # type: ignore[assignment]
    nodes = model.graph.nodes
    return sorted(item.index for item in sweep([nodes[i] for i in gone], kept))


SIZES = "s = Shape(x) t = Cast<to=1>(s) u = Neg(t) y = Relu(x)"


def test_sizes_go_with_what_they_were_computed_for() -> None:
    model = model_of(SIZES.replace("y = Relu(x)", "v = Add(u, u) y = Relu(x)"))
    assert swept(model, [3]) == [0, 1, 2, 3]


def test_sizes_that_others_read_stay() -> None:
    model = model_of("s = Shape(x) t = Cast<to=1>(s) u = Neg(t) v = Abs(t) y = Add(x, v)")
    assert swept(model, [2]) == [2], "t is read by v"
    assert swept(model, [2, 3]) == [0, 1, 2, 3]


def test_sizes_that_something_new_reads_stay() -> None:
    model = model_of("s = Shape(x) t = Cast<to=1>(s) u = Neg(t) y = Relu(x)")
    assert swept(model, [2], {"t"}) == [2]
    assert swept(model, [2], {"s"}) == [1, 2]


def test_outputs_and_captured_values_stay() -> None:
    outputs = "float[3] y, float[1] t"
    model = model_of("s = Shape(x) t = Cast<to=1>(s) u = Neg(t) y = Relu(x)", outputs=outputs)
    assert swept(model, [2]) == [2]
    body = f"s = Shape(x) t = Cast<to=1>(s) u = Neg(t) {NEST.replace('Neg(x)', 'Add(x, t)')}"
    assert swept(model_of(body, inputs="float[3] x, bool q"), [2]) == [2]
