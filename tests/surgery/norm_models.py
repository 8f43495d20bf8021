"""Models with spelled-out norms, and everything that must hold of what a target makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from normfold.model.load import load
from normfold.model.write import to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.codes import meaning
from normfold.surgery.everything import Wishes, plan_everything
from normfold.surgery.plan import Decision, Outcome, Plan
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target
from tests.norm.rewriting import assert_close, exact
from tests.support import build, feeds, graphs, operators, positive, random

MICROSOFT = "com.microsoft"
# What runs on any runtime: the checker knows every operator of it.
CHECKED = (Target.PORTABLE, Target.TENSORRT, Target.OPENVINO)
H, C, G = 8, 6, 3
SEQUENCE, IMAGE = f"float[N,5,{H}] x", f"float[N,{C},4,5] x"


class Sheet:
    """Nodes in the language of `onnx.parser`, for an opset, with the constants that they read."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.body: list[str] = []
        self.init: dict[str, Any] = {}

    def add(self, *lines: str) -> None:
        """More nodes."""
        self.body += lines

    def mean(self, x: str, y: str, axes: Sequence[int]) -> None:
        """A ReduceMean in the form of the opset."""
        if self.opset < 18:
            self.add(f"{y} = ReduceMean<axes={list(axes)}>({x})")
            return
        name = "axes" + "_".join(str(axis).replace("-", "minus") for axis in axes)
        self.init[name] = np.array(axes, np.int64)
        self.add(f"{y} = ReduceMean({x}, {name})")

    def layer_norm(
        self, x: str = "x", y: str = "y", *, at: str = "", axes: Sequence[int] = (-1,), shape: tuple[int, ...] = (H,)
    ) -> None:
        """ReduceMean, Sub, Mul, ReduceMean, Add, Sqrt, Div, Mul, Add: 9 nodes; gamma and beta are `g` and `b`."""
        self.init |= {f"{at}g": positive(*shape), f"{at}b": random(*shape), f"{at}e": np.float32(1e-5)}
        self.mean(x, f"{at}m", axes)
        self.add(f"{at}d = Sub({x}, {at}m)", f"{at}p = Mul({at}d, {at}d)")
        self.mean(f"{at}p", f"{at}v", axes)
        self.add(f"{at}w = Add({at}v, {at}e)", f"{at}s = Sqrt({at}w)", f"{at}n = Div({at}d, {at}s)")
        self.add(f"{at}t = Mul({at}n, {at}g)", f"{y} = Add({at}t, {at}b)")

    def rms_norm(self, x: str = "x", y: str = "y", *, at: str = "") -> None:
        """Mul, ReduceMean, Add, Sqrt, Div, Mul: 6 nodes."""
        self.init |= {f"{at}g": positive(H), f"{at}e": np.float32(1e-5)}
        self.add(f"{at}p = Mul({x}, {x})")
        self.mean(f"{at}p", f"{at}v", (-1,))
        self.add(f"{at}w = Add({at}v, {at}e)", f"{at}s = Sqrt({at}w)", f"{at}n = Div({x}, {at}s)")
        self.add(f"{y} = Mul({at}n, {at}g)")

    def group_norm(self, x: str = "x", y: str = "y", *, at: str = "", channels: int = C, groups: int = G) -> None:
        """Reshape, InstanceNormalization, Shape, Reshape, Mul, Add: 6 nodes, of which Shape only computes a size."""
        self.init |= {
            f"{at}r": np.array([0, groups, -1], np.int64),
            f"{at}ones": np.ones(groups, np.float32),
            f"{at}zeros": np.zeros(groups, np.float32),
            f"{at}g": positive(channels, 1, 1),
            f"{at}b": random(channels, 1, 1),
        }
        self.add(f"{at}z = Reshape({x}, {at}r)")
        self.add(f"{at}i = InstanceNormalization<epsilon=1e-5>({at}z, {at}ones, {at}zeros)")
        self.add(f"{at}sh = Shape({x})", f"{at}n = Reshape({at}i, {at}sh)")
        self.add(f"{at}t = Mul({at}n, {at}g)", f"{y} = Add({at}t, {at}b)")

    def group_normalization(
        self, x: str, y: str, *, at: str = "", channels: int = C, groups: int = G, epsilon: float = 1e-5
    ) -> None:
        """The operator of opset 21, with one parameter per channel."""
        self.init |= {f"{at}g": positive(channels), f"{at}b": random(channels)}
        self.add(f"{y} = GroupNormalization<num_groups={groups}, epsilon={epsilon}>({x}, {at}g, {at}b)")

    def instance_norm(self, x: str = "x", y: str = "y", *, at: str = "") -> None:
        """A LayerNorm's nine nodes over the spatial axes."""
        self.layer_norm(x, y, at=at, axes=(2, 3), shape=(C, 1, 1))

    def silu(self, x: str, y: str) -> None:
        """y = x · Sigmoid(x)."""
        self.add(f"{y}_s = Sigmoid({x})", f"{y} = Mul({x}, {y}_s)")

    def model(self, inputs: str, outputs: str = "", **more: Any) -> ModelProto:
        """The model; without outputs declared, `y` of the type of the first input."""
        outputs = outputs or inputs.partition("]")[0] + "] y"
        return build(" ".join(self.body), inputs, outputs, self.init, opset=self.opset, **more)


@dataclass
class Lowered:
    """What came of a model."""

    original: ModelProto
    model: ModelProto
    plan: Plan
    decisions: list[Decision] = field(init=False)

    def __post_init__(self) -> None:
        self.decisions = [d for d in self.plan.decisions if d.rule in ("NF201", "NF202")]

    @property
    def operators(self) -> list[str]:
        """Of the result, in execution order, bodies and functions behind the main graph."""
        return operators(self.model)

    @property
    def codes(self) -> list[str]:
        """Of the decisions about norms, in order."""
        return [d.code for d in self.decisions]

    @property
    def opset(self) -> int:
        """Of the result."""
        return opset_of(self.model)

    @property
    def domains(self) -> dict[str, int]:
        """What the result imports beside the standard."""
        return {e.domain: e.version for e in self.model.opset_import if e.domain not in ("", "ai.onnx")}

    def node(self, op_type: str, at: int = 0) -> NodeProto:
        """A node of the result, wherever it is."""
        return [n for graph in graphs(self.model) for n in graph.node if n.op_type == op_type][at]

    def array(self, name: str) -> np.ndarray:
        """A constant of the main graph, by name."""
        made = {n.output[0]: n.attribute[0].t for n in self.model.graph.node if n.op_type == "Constant"}
        return numpy_helper.to_array({t.name: t for t in self.model.graph.initializer}.get(name) or made[name])


def opset_of(model: Any) -> int:
    """The version of the standard domain that a model or a function imports."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def plan(
    model: ModelProto,
    target: Target,
    threads: int | None = None,
    *,
    excluded: Mapping[str, tuple[str, str]] | None = None,
    skip: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
) -> tuple[ModelProto, Plan]:
    """The result without verification, which could hide a mistake, and the plan."""
    planned = plan_everything(load(model), Exclusions(dict(excluded or {}), skip, only), Wishes(target, threads))
    return ModelProto.FromString(to_bytes(apply(planned.model, planned.plan, {}))), planned.plan


def lowered(
    model: ModelProto, target: Target = Target.PORTABLE, threads: int | None = None, *, run: bool = True, **more: Any
) -> Lowered:
    """Plan, apply, and demand what must always hold; what the norms became is for the caller to judge.

    Args:
        model: must not change.
        target, threads: where it will run.
        run: hold the numbers against the original, both in float64; for main graphs of the operators of the evaluator.
        more: for `plan`.
    """
    before = model.SerializeToString(deterministic=True)
    result, found = plan(model, target, threads, **more)
    assert model.SerializeToString(deterministic=True) == before, "the caller's model was changed"
    again, second = plan(result, target, threads, **more)
    assert not second.norms and not second.edits, [d.message for d in second.decisions]
    assert again == result, "a second pass changed something"
    assert all(meaning(decision.code) is not None for decision in found.decisions)
    assert all("\n" not in decision.message for decision in found.decisions)
    _check_wiring(model, result)
    if target in CHECKED:
        onnx.checker.check_model(result, full_check=True)
    if run:
        same(model, result)
    return Lowered(model, result, found)


def same(model: ModelProto, result: ModelProto, tolerance: float = 2e-6) -> None:
    """Both compute the same in float64; what is left is the rounding of new constants to float32."""
    for feed in feeds(model, seed=1)[:1]:
        rng = np.random.default_rng(0)
        spread = {name: x + rng.normal(0, 2, (*x.shape[:1], *(1 for _ in x.shape[1:]))) for name, x in feed.items()}
        assert_close(exact(result, spread), exact(model, spread), tolerance)


def _check_wiring(model: ModelProto, result: ModelProto) -> None:
    """Interface kept, every value made once, every constant and every name in value_info there for somebody."""
    listed = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    assert [i for i in model.graph.input if i.name not in listed] == [
        i for i in result.graph.input if i.name not in listed
    ]
    assert model.graph.output == result.graph.output
    for graph in graphs(result):
        made = [name for node in graph.node for name in node.output if name]
        assert len(made) == len(set(made)), "defined twice"
    _check_order(result.graph)
    made = [name for graph in graphs(result) for node in graph.node for name in node.output if name]
    names = [node.name for graph in graphs(result) for node in graph.node if node.name]
    assert len(names) == len(set(names)), "two nodes of one name"
    read = {name for graph in graphs(result) for node in graph.node for name in node.input}
    read |= {o if isinstance(o, str) else o.name for graph in graphs(result) for o in graph.output}
    known = {*made, *(i if isinstance(i, str) else i.name for graph in graphs(result) for i in graph.input)}
    for graph in graphs(result):
        stored = {tensor.name for tensor in getattr(graph, "initializer", ())}
        assert stored <= read, f"nobody reads {sorted(stored - read)}"
        known |= stored
    assert read - {""} <= known, f"nobody makes {sorted(read - {''} - known)}"
    for graph in graphs(result):
        declared = {info.name for info in graph.value_info}
        assert declared <= known, f"declared and gone: {sorted(declared - known)}"


def _check_order(graph: Any) -> None:
    """Every node of the main graph stands behind those that make what it reads; the checker does not know all operators."""
    pending = {name for node in graph.node for name in node.output}
    for node in graph.node:
        early = pending & set(node.input)
        assert not early, f"{node.op_type} stands in front of what makes {sorted(early)}"
        pending -= set(node.output)


def with_all_types(model: ModelProto) -> ModelProto:
    """The model with the inferred type of every value written down, as exporters do."""
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def renamed(model: ModelProto, prefix: str = "node") -> ModelProto:
    """The model with a name for every node."""
    result = ModelProto()
    result.CopyFrom(model)
    for graph in graphs(result):
        for node in graph.node:
            node.name = f"{prefix}/{node.output[0]}"
    return result


def applied(result: Lowered) -> list[Decision]:
    """The decisions about norms that were spelled anew."""
    return [d for d in result.decisions if d.outcome is Outcome.APPLIED]


def tensor(name: str, array: np.ndarray) -> TensorProto:
    """An initializer."""
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
