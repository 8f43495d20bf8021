"""Models with GroupNorms, their layout planned and written down, executed by definition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import _conv_implementation

from normfold.model.constants import Constants
from normfold.model.graph import Node, Scope
from normfold.model.load import load
from normfold.model.shapes import Shapes
from normfold.surgery.layout.plan import LayoutPlan, plan_layout
from normfold.surgery.layout.region import GroupNorm as Site
from normfold.targets.lowering import MICROSOFT, Constant, Op
from tests.support import build

CHANNELS, GROUPS, EPSILON = 8, 2, 1e-5


class Net:
    """Nodes in text, with weights that are made up as they are needed."""

    def __init__(self, seed: int = 0) -> None:
        self.body: list[str] = []
        self.init: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(seed)

    def weight(self, *dims: int, name: str = "w") -> str:
        """A new initializer."""
        name = f"{name}{len(self.init)}"
        self.init[name] = self.rng.normal(size=dims).astype(np.float32) / np.float32(np.sqrt(max(np.prod(dims[1:]), 1)))
        return name

    def node(self, text: str, outputs: int = 1) -> str:
        """A node; the name of its first output."""
        made = [f"t{len(self.body)}{'abc'[index] if outputs > 1 else ''}" for index in range(outputs)]
        self.body.append(f"{', '.join(made)} = {text}")
        return made[0]

    def conv(self, x: str, before: int = CHANNELS, after: int = CHANNELS, kernel: int = 3, extra: str = "") -> str:
        """A Conv that keeps the extent."""
        pad = kernel // 2
        weight, bias = self.weight(after, before, kernel, kernel), self.weight(after)
        return self.node(f"Conv<pads=[{pad},{pad},{pad},{pad}]{extra}>({x}, {weight}, {bias})")

    def norm(self, x: str, channels: int = CHANNELS) -> str:
        """A GroupNormalization."""
        scale, bias = self.weight(channels, name="gn"), self.weight(channels, name="gn")
        return self.node(f"GroupNormalization<num_groups={GROUPS}, epsilon={EPSILON}>({x}, {scale}, {bias})")

    def silu(self, x: str) -> str:
        """y · Sigmoid(y)."""
        return self.node(f"Mul({x}, {self.node(f'Sigmoid({x})')})")

    def model(self, inputs: str, *outputs: str) -> ModelProto:
        """The model at opset 21; all outputs are images."""
        ends = ", ".join(f"float[{name}n,{name}c,{name}h,{name}w] {name}" for name in outputs)
        return build(" ".join(self.body), inputs, ends, self.init, opset=21)


@dataclass
class Planned:
    """A plan and what came of it."""

    model: ModelProto
    result: ModelProto
    plan: LayoutPlan
    sites: dict[str, Site] = field(default_factory=dict)

    @property
    def ops(self) -> list[str]:
        """Operators of the result."""
        return [node.op_type for node in self.result.graph.node]

    @property
    def transposes(self) -> list[str]:
        """What the Transposes of the result read."""
        return [node.input[0] for node in self.result.graph.node if node.op_type == "Transpose"]


def sites_of(scope: Scope, constants: Constants, gain: float, *, silu: bool) -> dict[str, Site]:
    """Every GroupNormalization, with the SiLU behind it where nobody else reads what it makes."""
    found = {}
    for node in scope.nodes:
        if node.op_type != "GroupNormalization":
            continue
        nodes, y = [node], node.output
        after = _silu(node) if silu else []
        if after:
            nodes, y = [node, *after], after[-1].output
        given = {name: constants.array(node.input(slot)) for slot, name in ((1, "scale"), (2, "bias"))}
        settings = {"groups": GROUPS, "epsilon": EPSILON, "channels_last": 1, "activation": int(bool(after))}
        core = Op("GroupNorm", ("x_last", "scale", "bias"), ("y_last",), settings, MICROSOFT)
        parameters = tuple(Constant(name, np.asarray(v, np.float64), 1) for name, v in given.items())
        x = node.input(0)
        assert x is not None
        found[node.key] = Site(x, y, frozenset(nodes), (core,), "x_last", "y_last", parameters, gain)
    return found


def _silu(node: Node) -> list[Node]:
    readers = [use.node for use in node.output.uses]
    kinds = sorted(reader.op_type for reader in readers)
    return sorted(readers, key=lambda reader: reader.op_type, reverse=True) if kinds == ["Mul", "Sigmoid"] else []


def planned(model: ModelProto, *, gain: float = 1.0, silu: bool = True) -> Planned:
    """Plan the layout of the main graph and write it down."""
    loaded = load(model)
    constants = Constants()
    shapes = Shapes(constants)
    taken = set(loaded.graph.values)

    def fresh(hint: str) -> str:
        name = next(n for n in (hint, *(f"{hint}_{count}" for count in range(1, 999))) if n not in taken)
        taken.add(name)
        return name

    sites = sites_of(loaded.graph, constants, gain, silu=silu)
    plan = plan_layout(loaded.graph, constants, shapes, sites, fresh)
    assert set(plan.norms) | set(plan.rejected) == set(sites)
    assert not set(plan.norms) & set(plan.rejected)
    result = ModelProto()
    result.CopyFrom(model)
    nodes = list(_nodes(model, loaded.graph, plan, sites))
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    for tensor in plan.tensors:
        whole = np.concatenate([np.asarray(block).reshape(-1) for block in tensor.blocks()]).reshape(tensor.dims)
        result.graph.initializer.append(numpy_helper.from_array(whole, tensor.name))
    for constant in plan.constants:
        dtype = helper.tensor_dtype_to_np_dtype(constant.data_type)
        result.graph.initializer.append(numpy_helper.from_array(constant.values.astype(dtype), constant.name))
    for domain, version in plan.domains.items():
        result.opset_import.append(helper.make_opsetid(domain, version))
    return Planned(model, result, plan, sites)


def _nodes(model: ModelProto, scope: Scope, plan: LayoutPlan, sites: dict[str, Site]) -> Iterator[NodeProto]:
    norms = {sites[key].y.producer: ops for key, ops in plan.norms.items()}
    gone = {node for key in plan.norms for node in sites[key].nodes} | set(plan.dropped)
    for node in scope.nodes:
        yield from (_proto(item.op) for item in plan.inserted if item.node is node and not item.behind)
        if node in norms:
            yield from map(_proto, norms[node])
        elif node in plan.replaced:
            yield _proto(plan.replaced[node])
        elif node not in gone:
            yield model.graph.node[node.index]
        yield from (_proto(item.op) for item in plan.inserted if item.node is node and item.behind)


def _proto(op: Op) -> NodeProto:
    return helper.make_node(op.op_type, list(op.inputs), list(op.outputs), domain=op.domain, **op.attributes)


class GroupNorm(OpRun):
    """com.microsoft.GroupNorm by its definition."""

    op_domain = MICROSOFT

    def _run(self, x: Any, scale: Any, bias: Any, **settings: Any) -> Any:
        assert settings["channels_last"] == 1
        n, h, w, c = x.shape
        assert scale.shape == bias.shape == (c,)
        groups = x.astype(np.float64).reshape(n, h * w, settings["groups"], -1)
        centred = groups - groups.mean((1, 3), keepdims=True)
        y = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + settings["epsilon"])
        y = y.reshape(x.shape) * scale + bias
        return ((y / (1 + np.exp(-y)) if settings["activation"] else y).astype(x.dtype),)


class NhwcConv(OpRun):
    """com.microsoft.NhwcConv by its definition: a Conv of the turned data with the turned weight."""

    op_domain = MICROSOFT

    def _run(self, x: Any, w: Any, b: Any = None, **settings: Any) -> Any:
        kernel = settings["kernel_shape"]
        assert list(kernel) == list(w.shape[1:3])
        y = _conv_implementation(
            x.transpose(0, 3, 1, 2),
            w.transpose(0, 3, 1, 2),
            b,
            settings.get("auto_pad") or "NOTSET",
            settings.get("dilations") or [1, 1],
            settings.get("group") or 1,
            kernel,
            settings.get("pads") or [0, 0, 0, 0],
            settings.get("strides") or [1, 1],
        )
        return (y.transpose(0, 2, 3, 1).astype(x.dtype),)


def run(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Every operator by its definition."""
    result: list[np.ndarray] = ReferenceEvaluator(model, new_ops=[GroupNorm, NhwcConv]).run(None, feeds)
    return result


def holds(model: ModelProto, *, gain: float = 1.0, silu: bool = True, sizes: dict[str, int] | None = None) -> Planned:
    """Plan and execute: the same numbers up to rounding, the same interface, every name defined once and before it is read."""
    done = planned(model, gain=gain, silu=silu)
    rng = np.random.default_rng(7)
    feeds = {}
    for info in model.graph.input:
        dims = [d.dim_value or (sizes or {}).get(d.dim_param, 2) for d in info.type.tensor_type.shape.dim]
        feeds[info.name] = rng.normal(size=dims).astype(np.float32)
    assert [o.name for o in model.graph.output] == [o.name for o in done.result.graph.output]
    _check_order(done.result)
    for before, after in zip(run(model, feeds), run(done.result, feeds), strict=True):
        assert before.shape == after.shape
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    if not sizes:
        _check_movement(done, feeds, gain)
    return done


def _check_movement(done: Planned, feeds: dict[str, np.ndarray], gain: float) -> None:
    """What Transposes move more than before is what the norms save, at most."""
    before, after = _moved(done.model, feeds), _moved(done.result, feeds)
    names = [done.sites[key].x.name for key in done.plan.norms]
    saved = gain * sum(array.size for array in _tensors(done.model, names, feeds))
    assert after <= before + saved
    assert not done.plan.norms or after < before + saved


def _moved(model: ModelProto, feeds: dict[str, np.ndarray]) -> int:
    names = [node.output[0] for node in model.graph.node if node.op_type == "Transpose"]
    return sum(array.size for array in _tensors(model, names, feeds))


def _tensors(model: ModelProto, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    probe = ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return run(probe, feeds) if names else []


def _check_order(model: ModelProto) -> None:
    known = {info.name for info in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    assert len(known) == len(model.graph.input) + len(model.graph.initializer)
    for node in model.graph.node:
        inner = {name for a in node.attribute for n in a.g.node for name in n.input}
        made = {name for a in node.attribute for n in a.g.node for name in n.output}
        missing = (set(node.input) | (inner - made)) - known - {""}
        assert not missing, f"{node.op_type} reads {missing}"
        assert not known & set(node.output), f"{node.op_type} makes {set(node.output)} again"
        known |= set(node.output)
    assert {output.name for output in model.graph.output} <= known
