"""Drive the engine on a model built in code, and hold the result against the original.

`check` runs both models with onnxruntime, its optimisations off, on inputs that include hostile values; it demands
equal outputs up to rounding, the same interface, a valid model, no leftovers, and that a second pass changes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.parser import parse_graph
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from normfold.model.load import Initializers, load
from normfold.model.tensors import RangeRefusal
from normfold.model.write import to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.calls import plan_model
from normfold.surgery.codes import meaning
from normfold.surgery.plan import Decision, Outcome, Plan
from normfold.surgery.planner import Exclusions

UNIT = {1: 2.0**-24, 10: 2.0**-11, 11: 2.0**-53, 16: 2.0**-8}
# Rounding differs by a few units of the largest number that either model ever holds, times the length of its sums.
UNITS_ALLOWED = 256
FIRST_RUNTIME_OPSET = 7

# --- building ---------------------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0, low: float = -1.0, high: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
    """Uniform values, the same for the same arguments; none of them 0."""
    values = np.random.default_rng([seed, *shape]).uniform(low, high, shape)
    return np.where(np.abs(values) < 1e-3, 0.5, values).astype(dtype)


def positive(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Uniform values in [0.5, 2)."""
    return random(*shape, seed=seed, low=0.5, high=2.0, dtype=dtype)


def batch_norm(
    channels: int, *, seed: int = 0, prefix: str = "", sign: bool = True, dtype: Any = np.float32
) -> dict[str, np.ndarray]:
    """The four parameters `g`, `b`, `m`, `v` of a BatchNormalization."""
    gamma = random(channels, seed=seed + 1, low=0.5, high=1.5, dtype=dtype)
    if sign:
        gamma[::2] *= -1
    return {
        f"{prefix}g": gamma,
        f"{prefix}b": random(channels, seed=seed + 2, dtype=dtype),
        f"{prefix}m": random(channels, seed=seed + 3, dtype=dtype),
        f"{prefix}v": positive(channels, seed=seed + 4, dtype=dtype),
    }


def _info(name: str, elem: int, dims: Any) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, elem, dims)


def build(
    body: str,
    inputs: str = "float[N,3,8,8] x",
    outputs: str = "y",
    init: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    ir: int = 8,
    domains: dict[str, int] | None = None,
    listed: tuple[str, ...] = (),
) -> ModelProto:
    """A model from the text of its nodes.

    Args:
        body: nodes in the language of `onnx.parser`.
        inputs: declarations, comma separated.
        outputs: names, comma separated, whose types are inferred; or declarations.
        init: initializers, arrays or TensorProtos.
        opset: version of the standard domain.
        ir: IR version; below 4 all initializers are listed as inputs.
        domains: further opset imports.
        listed: initializers that are also inputs.
    """
    declared = "[" in outputs
    head = outputs if declared else ", ".join(f"float[] {name.strip()}" for name in outputs.split(","))
    graph = parse_graph(f"g ({inputs}) => ({head}) {{ {body.replace('<>', '')} }}")
    for name, array in (init or {}).items():
        tensor = (
            array
            if isinstance(array, TensorProto)
            else numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name)
        )
        graph.initializer.append(tensor)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    for tensor in graph.initializer:
        if ir < 4 or tensor.name in listed:
            graph.input.append(_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir)
    if not declared:
        _infer_outputs(model)
    return model


def _infer_outputs(model: ModelProto) -> None:
    names = [output.name for output in model.graph.output]
    draft = ModelProto()
    draft.CopyFrom(model)
    for output in draft.graph.output:
        output.ClearField("type")
    inferred = onnx.shape_inference.infer_shapes(draft)
    types = {info.name: info for info in [*inferred.graph.output, *inferred.graph.value_info]}
    del model.graph.output[:]
    for name in names:
        info = types[name]
        assert info.type.tensor_type.HasField("shape"), f"no shape was inferred for {name!r}: declare it"
        model.graph.output.append(info)


# --- the engine -------------------------------------------------------------------------------------------


def plan_of(model: ModelProto, policy: Initializers = Initializers.AUTO, exclusions: Exclusions | None = None) -> Plan:
    """The plan alone."""
    return plan_model(load(model, initializers=policy), exclusions or Exclusions({})).plan


def optimise(
    model: ModelProto,
    policy: Initializers = Initializers.AUTO,
    exclusions: Exclusions | None = None,
    *,
    aggressive: bool = False,
) -> tuple[bytes, Plan]:
    """The engine: load, plan, apply, write."""
    loaded = load(model, initializers=policy)
    planned = plan_model(loaded, exclusions or Exclusions({}), aggressive=aggressive)
    return to_bytes(apply(planned.model, planned.plan, {})), planned.plan


@dataclass(frozen=True)
class Result:
    """What came of a model."""

    original: ModelProto
    model: ModelProto
    plan: Plan

    @property
    def before(self) -> list[str]:
        """Operators of the original, in file order, subgraphs and functions included."""
        return operators(self.original)

    @property
    def after(self) -> list[str]:
        """Operators of the result."""
        return operators(self.model)

    @property
    def decisions(self) -> list[Decision]:
        """What was decided about each site."""
        return [decision for decision in self.plan.decisions if decision.rule in ("NF101", "NF102")]

    @property
    def merges(self) -> list[Decision]:
        """What was decided about each candidate for a merge."""
        return [decision for decision in self.plan.decisions if decision.rule in ("NF103", "NF104")]

    @property
    def applied(self) -> int:
        """How many sites were folded."""
        return sum(decision.outcome is Outcome.APPLIED for decision in self.decisions)

    @property
    def keys(self) -> list[str]:
        """Reason keys of the sites that stayed, in execution order."""
        return [d.code.split(".", 1)[1] for d in self.decisions if d.outcome is not Outcome.APPLIED]

    def array(self, name: str) -> np.ndarray:
        """An initializer of the result, or a Constant node's value (before IR 4 new tensors go there)."""
        made = {node.output[0]: node.attribute[0].t for node in self.model.graph.node if node.op_type == "Constant"}
        return numpy_helper.to_array({t.name: t for t in self.model.graph.initializer}.get(name) or made[name])

    def node(self, op_type: str) -> NodeProto:
        """The first node of that operator in the result."""
        return next(node for node in self.model.graph.node if node.op_type == op_type)

    def operand(self, op_type: str, slot: int) -> np.ndarray:
        """The constant in an input slot of the first node of that operator in the result."""
        return self.array(self.node(op_type).input[slot])


def graphs(model: ModelProto) -> list[Any]:
    """The main graph, all bodies, and the functions."""
    found: list[Any] = []
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop(0)
        found.append(graph)
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    return found


def operators(model: ModelProto) -> list[str]:
    """All operators but Constant."""
    return [node.op_type for graph in graphs(model) for node in graph.node if node.op_type != "Constant"]


# --- running ----------------------------------------------------------------------------------------------


def _session(model: ModelProto) -> ort.InferenceSession | None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except NotImplemented_:
        return None  # onnxruntime has no such kernel (float64 Conv, bfloat16)


def _opset(model: ModelProto) -> int:
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


class Runner:
    """Executes a model: onnxruntime, or the reference implementation for opsets that it does not know."""

    def __init__(self, model: ModelProto) -> None:
        self.inputs = _real_inputs(model)
        self._session = None if _opset(model) < FIRST_RUNTIME_OPSET else _session(model)
        self._reference = ReferenceEvaluator(model) if self._session is None else None

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs."""
        names = {info.name for info in self.inputs}
        mine = {name: value for name, value in feeds.items() if name in names}
        with np.errstate(all="ignore"):
            return self._session.run(None, mine) if self._session is not None else self._reference.run(None, mine)

    @property
    def is_runtime(self) -> bool:
        """Whether onnxruntime runs it."""
        return self._session is not None


def _real_inputs(model: ModelProto) -> list[ValueInfoProto]:
    listed = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in listed]


def feeds(model: ModelProto, sizes: dict[str, int] | None = None, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Inputs: ordinary, all zero, large, tiny, all negative, and one with a few giants."""
    sizes = sizes or {}
    found: list[dict[str, np.ndarray]] = []
    for kind in range(6):
        feed: dict[str, np.ndarray] = {}
        for index, info in enumerate(_real_inputs(model)):
            rng = np.random.default_rng([seed, kind, index])
            elem = info.type.tensor_type.elem_type
            shape = [
                d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, 2)
                for d in info.type.tensor_type.shape.dim
            ]
            feed[info.name] = _values(rng, kind, shape, elem)
        found.append(feed)
    return found


def _values(rng: np.random.Generator, kind: int, shape: list[int], elem: int) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    if dtype == np.bool_:
        return np.asarray(rng.integers(0, 2, shape) if kind else np.ones(shape), np.bool_)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, 3, shape).astype(dtype)
    big = 64.0 if elem == TensorProto.FLOAT16 else 1e4
    values = rng.standard_normal(shape)
    if kind == 1:
        values = values * 0
    elif kind == 2:
        values = values * big
    elif kind == 3:
        values = values * 1e-3
    elif kind == 4:
        values = -np.abs(values)
    elif kind == 5:
        values = np.where(rng.random(shape) < 0.1, values * big, values)
    return values.astype(dtype)


def _exposed(model: ModelProto) -> ModelProto:
    """The model with every intermediate value of the main graph as a further output."""
    wide = ModelProto()
    wide.CopyFrom(model)
    have = {output.name for output in wide.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in have:
                have.add(name)
                wide.graph.output.append(ValueInfoProto(name=name))
    return wide


def _largest(values: list[np.ndarray]) -> float:
    sizes = [np.abs(np.asarray(v, np.float64)) for v in values if v.dtype.kind in "fV" or v.dtype == ml_dtypes.bfloat16]
    return max((float(s[np.isfinite(s)].max(initial=0)) for s in sizes), default=0.0)


def _constants(model: ModelProto) -> list[np.ndarray]:
    return [
        numpy_helper.to_array(t) for g in graphs(model) for t in getattr(g, "initializer", ()) if t.data_type in UNIT
    ]


def compare(original: ModelProto, result: ModelProto, *, sizes: dict[str, int] | None = None, seed: int = 0) -> None:
    """Equal outputs, within `UNITS_ALLOWED` roundings of the largest number that occurs on the way."""
    mine, exposed = Runner(result), Runner(original)
    exposed = Runner(_exposed(original)) if exposed.is_runtime else exposed
    count = len(original.graph.output)
    weights = max(1.0, _largest(_constants(original)), _largest(_constants(result)))
    for number, feed in enumerate(feeds(original, sizes, seed)):
        everything = exposed.run(feed)
        wanted, got = everything[:count], mine.run(feed)
        assert len(got) == count
        largest = max(_largest(everything), _largest(list(feed.values()))) + weights
        for info, a, b in zip(original.graph.output, wanted, got, strict=True):
            assert a.dtype == b.dtype, info.name
            assert a.shape == b.shape, f"{info.name}: {a.shape} became {b.shape}"
            if info.type.tensor_type.elem_type not in UNIT:
                np.testing.assert_array_equal(a, b, err_msg=f"output {info.name}, feed {number}")
                continue
            unit = UNIT[info.type.tensor_type.elem_type]
            a64, b64 = a.astype(np.float64), b.astype(np.float64)
            finite = np.isfinite(a64)
            bound = UNITS_ALLOWED * unit * largest
            with np.errstate(invalid="ignore"):
                error = float(np.abs(np.where(finite, a64 - b64, 0)).max(initial=0))
            assert error <= bound, f"output {info.name}, feed {number}: off by {error:.3g}, allowed {bound:.3g}"


# --- the contract -----------------------------------------------------------------------------------------


def check(
    model: ModelProto,
    *,
    policy: Initializers = Initializers.AUTO,
    exclusions: Exclusions | None = None,
    sizes: dict[str, int] | None = None,
    seed: int = 0,
    run: bool = True,
    aggressive: bool = False,
) -> Result:
    """Optimise a model and demand everything that must always hold; what was folded is for the caller to judge."""
    before = model.SerializeToString(deterministic=True)
    data, plan = optimise(model, policy, exclusions, aggressive=aggressive)
    assert model.SerializeToString(deterministic=True) == before, "the caller's model was changed"
    result = ModelProto.FromString(data)
    if _is_valid(model, full=run):
        onnx.checker.check_model(result, full_check=run)
    _check_interface(model, result, plan.frozen)
    _check_leftovers(model, result)
    again, second = optimise(result, policy, exclusions, aggressive=aggressive)
    # Passing a ModelProto serialises it afresh, which puts fields in order; hence not `== data`.
    assert again == result.SerializeToString(deterministic=True), "a second pass changed something"
    assert not second.edits, "a second pass edited"
    if run:
        compare(model, result, sizes=sizes, seed=seed)
    return Result(model, result, plan)


def _is_valid(model: ModelProto, *, full: bool) -> bool:
    try:
        onnx.checker.check_model(model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _check_interface(model: ModelProto, result: ModelProto, frozen: tuple[str, ...]) -> None:
    listed = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set(frozen)
    for was, now in (
        (
            [i for i in model.graph.input if i.name not in listed],
            [i for i in result.graph.input if i.name not in listed],
        ),
    ):
        assert [i.SerializeToString() for i in was] == [i.SerializeToString() for i in now], "the inputs changed"
    assert [o.SerializeToString() for o in model.graph.output] == [o.SerializeToString() for o in result.graph.output]
    if model.ir_version < 4:
        names = {info.name for info in result.graph.input}
        assert {tensor.name for tensor in result.graph.initializer} <= names, (
            "before IR 4 every initializer is an input"
        )
    assert [(e.domain, e.version) for e in model.opset_import] == [(e.domain, e.version) for e in result.opset_import]


def _unread(model: ModelProto) -> Counter[str]:
    """Initializers and constants that nobody reads."""
    read = Counter(name for graph in graphs(model) for node in graph.node for name in node.input)
    read.update(o.name if isinstance(o, ValueInfoProto) else o for graph in graphs(model) for o in graph.output)
    made = [t.name for graph in graphs(model) for t in getattr(graph, "initializer", ())]
    made += [node.output[0] for graph in graphs(model) for node in graph.node if node.op_type == "Constant"]
    return Counter(name for name in made if not read[name])


def _check_leftovers(model: ModelProto, result: ModelProto) -> None:
    extra = _unread(result) - _unread(model)
    assert not extra, f"constants without a reader were left: {sorted(extra)}"
    produced = [name for graph in graphs(result) for node in graph.node for name in node.output if name]
    doubles = [name for name, count in Counter(produced).items() if count > 1]
    original = Counter(name for graph in graphs(model) for node in graph.node for name in node.output if name)
    assert not [name for name in doubles if original[name] < 2], f"defined twice: {doubles}"


def folds(model: ModelProto, ops: list[str] | None = None, **options: Any) -> Result:
    """Every affine site must fold; with `ops`, exactly these operators must be left."""
    result = check(model, **options)
    assert not result.keys, [(d.node, d.code, d.message) for d in result.decisions]
    assert result.applied, "there was no site"
    if ops is not None:
        assert sorted(result.after) == sorted(ops)
    return result


def stays(model: ModelProto, *keys: str, **options: Any) -> Result:
    """Sites must stay, each for the reason given, in execution order."""
    result = check(model, **options)
    assert result.keys == list(keys), [(d.node, d.code, d.message) for d in result.decisions]
    return result


def merges(model: ModelProto, ops: list[str], **options: Any) -> Result:
    """Something must merge and nothing that could be merged or folded may stay; exactly these operators must be left."""
    result = check(model, **options)
    assert result.merges, "there was no candidate"
    assert all(d.outcome is Outcome.APPLIED for d in result.merges), [
        (d.node, d.code, d.message) for d in result.merges
    ]
    assert not result.keys, [(d.node, d.code, d.message) for d in result.decisions]
    assert sorted(result.after) == sorted(ops)
    return result


def apart(model: ModelProto, *codes: str, **options: Any) -> Result:
    """No linear operator may go; candidates must stay for the reasons given (`NF103.geometry`), in execution order."""
    result = check(model, **options)
    assert all(meaning(d.code) for d in result.merges)
    assert [d.code for d in result.merges] == list(codes), [(d.node, d.code, d.message) for d in result.merges]
    linear = ("Conv", "MatMul", "Gemm", "AveragePool")
    assert sum(op in linear for op in result.after) == sum(op in linear for op in result.before)
    return result


def refuses_when_written(model: ModelProto) -> str:
    """The edit is planned, and the new tensor turns out to leave the range of its type."""
    try:
        optimise(model)
    except RangeRefusal as refusal:
        return refusal.reason
    raise AssertionError("no RangeRefusal")
