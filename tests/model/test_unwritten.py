"""A candidate as a model before it is written: it is what would be written, its nodes keep their keys, weights wait."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, helper, numpy_helper, parser

from normfold.model.deferred import Deferred
from normfold.model.inline import inline
from normfold.model.load import Model, load
from normfold.model.patch import Candidate, NodePatch, ScopePatch
from normfold.model.rewrite import Rewrite, rewrite
from normfold.model.tensors import NewTensor, RangeRefusal, Values
from normfold.model.unwritten import unwritten
from normfold.model.write import Staging, stage, to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.everything import Wishes, plan_everything
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target
from tests.fuzz.generator import random_model
from tests.fuzz.outliner import graphs, outlined

HEAD = '<ir_version: {ir}, opset_import: ["" : 17, "own" : 1]>'
CHAIN = "a = Relu(x) b = Mul(a, w) y = Abs(b)"


def model_of(body: str = CHAIN, *functions: str, ir: int = 8, **initializers: np.ndarray) -> Model:
    text = f"{HEAD.format(ir=ir)} g (float[3] x) => (float[3] y) {{ {body} }}"
    proto = parser.parse_model(text + "".join(f' <domain: "own", opset_import: ["" : 17]> {f}' for f in functions))
    constants = initializers or {"w": np.ones(3, np.float32)}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return load(proto)


def new(name: str, *values: float, factor: float = 1.0) -> NewTensor:
    base = Values(np.asarray(values, np.float32), 1)
    return NewTensor(name, base, 1, base.dims, np.asarray(factor))


def patched(model: Model, **patch: object) -> Candidate:
    return Candidate(model, {id(model.graph): ScopePatch(**patch)}, {})  # type: ignore[arg-type]


def written(model: Model) -> ModelProto:
    """What would be written if nothing else changed."""
    return ModelProto.FromString(to_bytes(Candidate(model, {id(model.graph): ScopePatch()}, {})))


def in_order(graph: GraphProto) -> GraphProto:
    """A graph, bodies included, with its initializers by name: their order means nothing."""
    result = GraphProto.FromString(graph.SerializeToString())
    for node in result.node:
        for body in graphs(node):
            body.CopyFrom(in_order(body))
    tensors = sorted(result.initializer, key=lambda tensor: tensor.name)
    del result.initializer[:]
    result.initializer.extend(tensors)
    return result


@pytest.mark.parametrize("batch", range(3))
def test_it_is_what_would_be_written(batch: int) -> None:
    changed = 0
    for seed in range(batch * 40, batch * 40 + 40):
        flat = random_model(seed)
        for proto in (flat, None if flat is None else outlined(flat, seed)):
            if proto is None:
                continue
            planned = plan_everything(load(proto), Exclusions({}), Wishes(Target.PORTABLE))
            candidate = apply(planned.model, planned.plan, {})
            try:
                wanted = ModelProto.FromString(to_bytes(candidate))
            except RangeRefusal:
                continue
            model = unwritten(candidate)
            found = written(model)
            assert in_order(found.graph) == in_order(wanted.graph), f"seed {seed}"
            assert found.functions == wanted.functions
            keys = [node.key for scope in model.scopes() for node in scope.nodes]
            assert len(keys) == len(set(keys))
            changed += not candidate.is_original
    assert changed > 10


def test_nodes_keep_their_keys_and_new_ones_get_some_that_are_free() -> None:
    before = helper.make_node("Exp", ["a"], ["a2"])
    after = helper.make_node("Cos", ["b0"], ["b"])
    change = {"before": {1: [before]}, "after": {1: [after]}}
    candidate = patched(model_of(), nodes={1: NodePatch(inputs=["a2", "w"], outputs=["b0"])}, **change)
    model = unwritten(candidate)
    assert [node.key for node in model.graph.nodes] == ["graph:0", "graph:1<0", "graph:1", "graph:1>0", "graph:2"]
    again = helper.make_node("Sin", ["b1"], ["b0"])
    second = patched(model, nodes={2: NodePatch(outputs=["b1"])}, after={2: [again]})
    assert [node.key for node in unwritten(second).graph.nodes][2:5] == ["graph:1", "graph:1>1", "graph:1>0"]


def test_operator_and_attributes_of_a_node() -> None:
    attributes = {"axis": None, "epsilon": helper.make_attribute("epsilon", 0.5)}
    body = "y = LayerNormalization<axis = 0, stash_type = 1>(x, w)"
    candidate = patched(model_of(body), nodes={0: NodePatch(op_type="RMSNormalization", attributes=attributes)})
    (node,) = written(unwritten(candidate)).graph.node
    assert (node.op_type, [a.name for a in node.attribute]) == ("RMSNormalization", ["stash_type", "epsilon"])


def test_weights_are_computed_when_somebody_asks() -> None:
    broken = new("w", 3e38, 1.0, 1.0, factor=10.0)
    model = unwritten(patched(model_of(), replaced={0: broken}))
    weight = model.graph.values["w"].tensor
    assert isinstance(weight, Deferred)
    assert (weight.dims, weight.nbytes, weight.stored_bytes()) == ((3,), 12, 12)
    for read in (weight.array, weight.raw):
        with pytest.raises(RangeRefusal):
            read()


def test_weights_may_change_again_and_go() -> None:
    first = unwritten(patched(model_of(), replaced={0: new("w", 1, 2, 3)}, added=[new("z", 4)]))
    assert [t.name for t in patched(first).new_tensors()] == ["w", "z"]
    second = patched(first, replaced={0: new("w", 5, 6, 7)}, dropped_initializers={1})
    assert [(t.name, t.base.array().tolist()) for t in second.new_tensors()] == [("w", [5, 6, 7])]
    assert [t.name for t in ModelProto.FromString(to_bytes(second)).graph.initializer] == ["w"]
    assert in_order(written(unwritten(second)).graph) == in_order(ModelProto.FromString(to_bytes(second)).graph)


def test_a_constant_node_that_is_not_computed_may_get_another_name() -> None:
    first = unwritten(patched(model_of(), constants={1: [new("k", 1, 2, 3)]}))
    place = next(node.index for node in first.graph.nodes if node.op_type == "Constant")
    second = patched(first, nodes={place: NodePatch(outputs=["other"])})
    for result in (ModelProto.FromString(to_bytes(second)), written(unwritten(second))):
        (made,) = (node for node in result.graph.node if node.op_type == "Constant")
        assert list(made.output) == ["other"]
        assert numpy_helper.to_array(made.attribute[0].t).tolist() == [1, 2, 3]


def test_a_weight_in_a_function_is_there_where_the_function_is_called() -> None:
    """Inlining reads a body as it stands, not as the file had it."""
    body = "f (v) => (r) { s = Abs(v) r = Neg(s) }"
    model = model_of("t = own.f(x) y = Mul(t, w)", body)
    inside = model.functions[0][1]
    patch = ScopePatch(constants={1: [new("k", 1, 2, 3)]}, nodes={1: NodePatch(op_type="Mul", inputs=["s", "k"])})
    result = inline(unwritten(Candidate(model, {id(inside): patch}, {}))).model
    (held,) = (node for node in written(result).graph.node if node.op_type == "Constant")
    assert numpy_helper.to_array(held.attribute[0].t).tolist() == [1, 2, 3]


def test_a_body_in_a_function_is_as_it_was_rewritten_where_the_function_is_called() -> None:
    branches = "then_branch = t () => (u) { u = Neg(v) }, else_branch = e () => (o) { o = Abs(v) }"
    model = model_of("y = own.f(x)", f"f (v) => (r) {{ q = Constant<value = bool {{1}}>() r = If (q) <{branches}> }}")
    inner = next(s for _, body in model.functions for s in body.walk() if s.nodes[0].op_type == "Neg")
    rewritten = rewrite(model, {id(inner): Rewrite(nodes={0: [helper.make_node("Sin", ["v"], ["u"])]})})
    result = written(inline(rewritten).model)
    branch = next(a.g for node in result.graph.node for a in node.attribute if a.name == "then_branch")
    assert [node.op_type for node in branch.node] == ["Sin"]


def test_weights_go_to_the_data_file_of_the_model(tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.float32)
    proto = parser.parse_model(f"{HEAD.format(ir=8)} g (float[4096] x) => (float[4096] y) {{ y = Mul(x, w) }}")
    proto.graph.initializer.append(numpy_helper.from_array(values, "w"))
    onnx.save(proto, tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    model = unwritten(patched(load(tmp_path / "in.onnx"), replaced={0: new("w", *values, factor=2.0)}))
    kept = unwritten(
        patched(load(tmp_path / "in.onnx"), added=[new("w2", *values)], nodes={0: NodePatch(inputs=["x", "w2"])})
    )
    for number, one in enumerate((model, kept)):
        with Staging(tmp_path) as staging:
            staged = stage(patched(one), staging, f"{number}.onnx")
            result = onnx.load(staged.model)
        assert {t.name for t in result.graph.initializer} == ({"w"}, {"w", "w2"})[number]
        assert numpy_helper.to_array(result.graph.initializer[-1]).tolist() == (values * (2, 1)[number]).tolist()
