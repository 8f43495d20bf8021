"""Raise the opset of a ModelProto, and hold what comes out against what went in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from normfold.model.constants import Constants
from normfold.model.graph import Scope
from normfold.model.load import FIRST_OVERRIDABLE_IR, load
from normfold.model.shapes import Shapes
from normfold.surgery.versions import Converted, raise_opset
from normfold.targets.lowering import Constant
from tests.support import Runner, graphs

Body = GraphProto | FunctionProto


def raised(model: ModelProto, wanted: int) -> ModelProto:
    """The same model under a newer opset, functions included."""
    loaded = load(model)
    constants = Constants()
    shapes = Shapes(constants)
    taken = {name for scope in loaded.scopes() for name in scope.values}
    taken |= {node.proto.name for scope in loaded.scopes() for node in scope.nodes}

    def fresh(hint: str) -> str:
        name, count = hint, 0
        while name in taken:
            count += 1
            name = f"{hint}_{count}"
        taken.add(name)
        return name

    result = ModelProto()
    result.CopyFrom(model)
    bodies: list[Body] = [result.graph, *result.functions]
    as_nodes = result.ir_version < FIRST_OVERRIDABLE_IR  # an initializer would have to be an input
    imports = [result.opset_import, *(function.opset_import for function in result.functions)]
    for root, body, entries in zip(loaded.roots, bodies, imports, strict=True):
        found = raise_opset(root, wanted, constants, shapes, fresh)
        _rewrite(body, root, found, as_nodes=as_nodes)
        for entry in entries:
            if entry.domain in ("", "ai.onnx"):
                entry.version = max(wanted, entry.version)
    return result


def _rewrite(body: Body, scope: Scope, found: dict[Scope, dict[int, Converted]], *, as_nodes: bool) -> None:
    mine = found.get(scope, {})
    inner = {node.index: node.subgraphs for node in scope.nodes}
    nodes: list[NodeProto] = []
    made: list[NodeProto] = []
    for index, node in enumerate(body.node):
        for graph, sub in zip(_subgraphs(node), inner[index], strict=True):
            _rewrite(graph, sub, found, as_nodes=as_nodes)
        converted = mine.get(index)
        if converted is None:
            nodes.append(node)
            continue
        for constant in converted.constants:
            tensor = _tensor(constant)
            if isinstance(body, GraphProto) and not as_nodes:
                body.initializer.append(tensor)
            else:
                made.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        nodes += [*converted.before, converted.proto]
    kept = [*made, *nodes]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del body.node[:]
    body.node.extend(copies)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensor(constant: Constant) -> TensorProto:
    dtype = helper.tensor_dtype_to_np_dtype(constant.data_type)
    return numpy_helper.from_array(np.asarray(constant.values).astype(dtype), constant.name)


def same(
    model: ModelProto,
    wanted: int,
    *feeds: dict[str, np.ndarray],
    valid: bool = True,
    units: int = 0,
    reference: bool = False,
) -> ModelProto:
    """Raise a model: the checker must accept the result, and all outputs must have the same bits.

    Args:
        model: what is raised.
        wanted: the opset.
        feeds: inputs.
        valid: whether the checker accepts the model as it is.
        units: by how many units in the last place of the largest value float32 outputs may differ, where onnxruntime has
            another kernel for the newer version.
        reference: whether onnx's own evaluator runs both; it does anyway where onnxruntime has no kernel.
    """
    if valid:
        onnx.checker.check_model(model, full_check=True)
    result = raised(model, wanted)
    onnx.checker.check_model(result, full_check=True)
    before, after = Runner(model), Runner(result)
    runs = [before.run, after.run]
    if reference or not (before.is_runtime and after.is_runtime):
        runs = [_reference(model), _reference(result)]
    for feed in feeds:
        old, new = (run(feed) for run in runs)
        assert len(old) == len(new)
        for info, a, b in zip(model.graph.output, old, new, strict=True):
            if units:
                np.testing.assert_allclose(b, a, rtol=0, atol=units * float(np.spacing(np.abs(a).max())))
            else:
                assert_same_bits(a, b, info.name)
    return result


def _reference(model: ModelProto) -> Any:
    evaluator = ReferenceEvaluator(model)
    return lambda feed: evaluator.run(None, feed)


def assert_same_bits(a: Any, b: Any, name: str) -> None:
    """Equal types, shapes and bytes; one NaN is as good as another."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype, name
    assert a.shape == b.shape, f"{name}: {a.shape} became {b.shape}"
    if a.dtype.kind == "f" or a.dtype == ml_dtypes.bfloat16:
        nan = np.isnan(a)
        np.testing.assert_array_equal(nan, np.isnan(b), err_msg=name)
        a, b = np.where(nan, 0, a).astype(a.dtype), np.where(nan, 0, b).astype(b.dtype)
    assert a.tobytes() == b.tobytes(), f"{name}: {a.ravel()[:8]} became {b.ravel()[:8]}"


def ops(model: ModelProto) -> list[str]:
    """Operators in file order, subgraphs and functions included."""
    return [node.op_type for graph in graphs(model) for node in graph.node]


def values(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Normal values with a few special ones among them."""
    rng = np.random.default_rng([seed, *shape])
    found = rng.standard_normal(shape)
    special = rng.random(shape)
    found = np.where(special < 0.05, 0.0, np.where(special > 0.97, found * 1e3, found))
    return np.asarray(found, dtype)
