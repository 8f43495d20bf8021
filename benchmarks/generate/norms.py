"""Norms as exporters spell them, each with its meaning: what `benchmarks.norms` measures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from normfold.model.dtypes import FLOAT, onnx_dtype
from normfold.norm.meaning import Norm
from normfold.targets.lowering import MICROSOFT, Lowering

Array = NDArray[Any]
_OPSET, _IR = 17, 10
_MOMENTS = "m = ReduceMean<axes=[{a}]>(x) d = Sub(x, m) p = Pow(d, two) v = ReduceMean<axes=[{a}]>(p) w = Add(v, e)"
_BETA_MINUS = "s = Sqrt(w) r = Reciprocal(s) k = Mul(r, g) a = Mul(x, k) h = Mul(m, k) c = Sub(b, h) y = Add(a, c)"


@dataclass(frozen=True, eq=False)
class Case:
    """A norm of one size.

    Args:
        name: kind and shape.
        norm: what it means, in float32.
        spellings: name -> nodes in ONNX text, which read `x` and make `y`; the opset is 17, or 21 where the name says so.
        constants: what the nodes read beside `x`, float64 or int64.
    """

    name: str
    norm: Norm
    spellings: Mapping[str, str]
    constants: Mapping[str, Array]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `x`."""
        return tuple(dim for dim in self.norm.dims if isinstance(dim, int))

    def x(self, dtype: np.dtype, seed: int = 0) -> Array:
        """Normal numbers with a mean of their own."""
        return (np.random.default_rng(seed).standard_normal(self.shape) + 0.5).astype(dtype)

    def expected(self, x: Array) -> Array:
        """The norm of `x` in float64."""
        norm, view, axes = self.norm, x.astype(np.float64), self.norm.axes
        if norm.groups is not None and norm.channel is not None:
            c = norm.channel
            view = view.reshape(*x.shape[:c], norm.groups, -1, *x.shape[c + 1 :])
            axes = tuple(sorted((c + 1, *(axis + (axis > c) for axis in axes))))
        deviation = view - view.mean(axes, keepdims=True) if norm.centred else view
        core = deviation / np.sqrt((deviation**2).mean(axes, keepdims=True) + norm.epsilon)
        core = core.reshape(x.shape) * (1.0 if norm.gamma is None else norm.gamma)
        return core + (0.0 if norm.beta is None else norm.beta)

    def model(self, spelling: str, dtype: np.dtype) -> bytes:
        """One spelling as a model of one element type."""
        body = self.spellings[spelling]
        opset = int(found[1]) if (found := re.search(r"-(\d\d)$", spelling)) else _OPSET
        kind = onnx.helper.tensor_dtype_to_string(onnx_dtype(dtype)).removeprefix("TensorProto.").lower()
        extents = ",".join(map(str, self.shape))
        head = f'<ir_version: {_IR}, opset_import: ["": {opset}]>'
        made = parser.parse_model(f"{head} norm ({kind}[{extents}] x) => ({kind}[{extents}] y) {{ {body} }}")
        read = {name for node in made.graph.node for name in node.input}
        made.graph.initializer.extend(
            numpy_helper.from_array(value.astype(dtype if value.dtype.kind == "f" else value.dtype), name)
            for name, value in self.constants.items()
            if name in read
        )
        return made.SerializeToString()


def lowered(case: Case, lowering: Lowering, opset: int, dtype: np.dtype) -> bytes:
    """What normfold makes of the norm, as a model."""
    kind = onnx_dtype(dtype)
    ends = [helper.make_tensor_value_info(name, kind, case.shape) for name in ("x", "y")]
    nodes = [
        helper.make_node(op.op_type, op.inputs, op.outputs, domain=op.domain, **op.attributes) for op in lowering.nodes
    ]
    tensors = [
        numpy_helper.from_array(np.asarray(c.values).astype(helper.tensor_dtype_to_np_dtype(c.data_type)), c.name)
        for c in lowering.constants
    ]
    imports = {"": max(opset, lowering.opset), **lowering.domains, MICROSOFT: 1}
    graph = helper.make_graph(nodes, "norm", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid(domain, version) for domain, version in imports.items()]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=_IR).SerializeToString()
    return made


def _parameters(*shape: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(shape)
    # float16 holds them, so that every element type computes with the same parameters
    return tuple(rng.uniform(0.5, 1.5, shape).astype(np.float16).astype(np.float64) for _ in "gb")  # type: ignore[return-value]


def _case(kind: str, shape: tuple[int, ...], axes: tuple[int, ...], along: int, **more: Any) -> tuple[str, Norm]:
    extents = [extent if axis == along else 1 for axis, extent in enumerate(shape)]
    gamma, beta = _parameters(*extents)
    centred = more.pop("centred", True)
    norm = Norm(centred, shape, axes, 1e-5, gamma, beta if centred else None, FLOAT, FLOAT, FLOAT, **more)
    return f"{kind} {list(shape)}", norm


def layer_norm(*shape: int) -> Case:
    """LayerNorm of the last dimension."""
    name, norm = _case("LayerNorm", shape, (len(shape) - 1,), len(shape) - 1)
    moments = _MOMENTS.format(a=-1)
    spellings = {
        "torch: Div, Sqrt, Pow": f"{moments} s = Sqrt(w) n = Div(d, s) t = Mul(n, g) y = Add(t, b)",
        "Keras: beta minus": f"{moments} {_BETA_MINUS}",
        "Pow -0.5": f"{moments} i = Pow(w, half) n = Mul(d, i) t = Mul(n, g) y = Add(t, b)",
        "fast variance, Max": (
            "m = ReduceMean<axes=[-1]>(x) q = Mul(x, x) u = ReduceMean<axes=[-1]>(q) z = Mul(m, m) f = Sub(u, z) "
            "v = Max(f, zero) w = Add(v, e) s = Sqrt(w) r = Reciprocal(s) k = Mul(r, g) d = Sub(x, m) t = Mul(d, k) "
            "y = Add(t, b)"
        ),
        "LayerNormalization": "y = LayerNormalization<axis=-1, epsilon=0.00001>(x, g, b)",
    }
    return Case(name, norm, spellings, _constants(norm, -1))


def rms_norm(*shape: int) -> Case:
    """RMSNorm of the last dimension."""
    name, norm = _case("RMSNorm", shape, (len(shape) - 1,), len(shape) - 1, centred=False)
    spellings = {
        "torch: Reciprocal, Sqrt, Pow": (
            "p = Pow(x, two) v = ReduceMean<axes=[-1]>(p) w = Add(v, e) s = Sqrt(w) r = Reciprocal(s) n = Mul(x, r) "
            "y = Mul(n, g)"
        ),
        "T5: Div": (
            "p = Pow(x, two) v = ReduceMean<axes=[-1]>(p) w = Add(v, e) s = Sqrt(w) n = Div(x, s) y = Mul(n, g)"
        ),
        "ReduceSumSquare / N": (
            "p = ReduceSumSquare<axes=[-1]>(x) v = Div(p, count) w = Add(v, e) s = Sqrt(w) r = Reciprocal(s) "
            "n = Mul(x, r) y = Mul(n, g)"
        ),
        "RMSNormalization-23": "y = RMSNormalization<axis=-1, epsilon=0.00001>(x, g)",
    }
    return Case(name, norm, spellings, _constants(norm, -1))


def layer_norm_2d(*shape: int) -> Case:
    """LayerNorm of the channels of `[N, C, H, W]`."""
    name, norm = _case("LayerNorm2d", shape, (1,), 1)
    moments = _MOMENTS.format(a=1)
    spellings = {
        "torch: Div, Sqrt, Pow": f"{moments} s = Sqrt(w) n = Div(d, s) t = Mul(g, n) y = Add(t, b)",
        "beta minus": f"{moments} {_BETA_MINUS}",
    }
    return Case(name, norm, spellings, _constants(norm, 1))


def instance_norm(*shape: int) -> Case:
    """InstanceNorm of `[N, C, H, W]`."""
    name, norm = _case("InstanceNorm", shape, (2, 3), 1)
    moments = _MOMENTS.format(a="2, 3")
    spellings = {
        "decomposed": f"{moments} s = Sqrt(w) n = Div(d, s) t = Mul(n, g) y = Add(t, b)",
        "MeanVarianceNormalization": "n = MeanVarianceNormalization<axes=[2, 3]>(x) t = Mul(n, g) y = Add(t, b)",
        "InstanceNormalization": "y = InstanceNormalization<epsilon=0.00001>(x, g1, b1)",
    }
    return Case(name, norm, spellings, _constants(norm, 1))


def group_norm(groups: int, *shape: int) -> Case:
    """GroupNorm of `[N, C, H, W]`."""
    name, norm = _case(f"GroupNorm({groups})", shape, (2, 3), 1, groups=groups, channel=1)
    spellings = {
        "torch: GroupNormalization-21": f"y = GroupNormalization<num_groups={groups}, epsilon=0.00001>(x, g1, b1)",
        "torch: InstanceNorm idiom": (
            "r = Reshape(x, rows) n = InstanceNormalization<epsilon=0.00001>(r, ones, zeros) z = Shape(x) "
            "u = Reshape(n, z) t = Mul(u, g) y = Add(t, b)"
        ),
        "decomposed": (
            "f = Reshape(x, five) m = ReduceMean<axes=[2, 3, 4]>(f) d = Sub(f, m) p = Mul(d, d) "
            "v = ReduceMean<axes=[2, 3, 4]>(p) w = Add(v, e) s = Sqrt(w) n = Div(d, s) u = Reshape(n, whole) "
            "t = Mul(u, g) y = Add(t, b)"
        ),
        "LayerNormalization, scale (1, G, K)": (
            "r = Reshape(x, rows) n = LayerNormalization<axis=-1, epsilon=0.00001>(r, gk, bk) y = Reshape(n, whole)"
        ),
    }
    n, c, h, w = shape
    constants = _constants(norm, 1)
    assert norm.gamma is not None
    assert norm.beta is not None
    wide = {
        f"{k}k": np.repeat(p.reshape(-1), h * w).reshape(1, groups, -1)
        for k, p in (("g", norm.gamma), ("b", norm.beta))
    }
    views = {"rows": np.array([0, groups, -1]), "five": np.array([n, groups, c // groups, h, w])}
    return Case(
        name,
        norm,
        spellings,
        constants | views | wide | {"whole": np.array(shape), "ones": np.ones(groups), "zeros": np.zeros(groups)},
    )


def group_norm_last(groups: int, *shape: int) -> Case:
    """GroupNorm of `[N, H, W, C]`."""
    name, norm = _case(f"GroupNorm({groups}) NHWC", shape, (1, 2), 3, groups=groups, channel=3)
    spellings = {
        "Keras: tf.nn.moments": (
            "f = Reshape(x, five) m = ReduceMean<axes=[1, 2, 4]>(f) d = Sub(f, m) p = Mul(d, d) "
            "v = ReduceMean<axes=[1, 2, 4]>(p) w = Add(v, e) s = Sqrt(w) r = Reciprocal(s) i = Mul(r, g5) l = Neg(m) "
            "a = Mul(l, i) c = Add(a, b5) k = Mul(f, i) o = Add(k, c) y = Reshape(o, whole)"
        ),
    }
    n, h, w, c = shape
    assert norm.gamma is not None
    assert norm.beta is not None
    five = (1, 1, 1, groups, c // groups)
    more = {"five": np.array([n, h, w, groups, c // groups]), "whole": np.array(shape)}
    return Case(
        name,
        norm,
        spellings,
        _constants(norm, 3) | more | {"g5": norm.gamma.reshape(five), "b5": norm.beta.reshape(five)},
    )


def _constants(norm: Norm, axis: int) -> dict[str, Array]:
    """Scalars, gamma and beta in the shapes in which they broadcast, and flat."""
    assert norm.gamma is not None
    beta = np.zeros_like(norm.gamma) if norm.beta is None else norm.beta
    lead = axis % norm.rank
    shape = norm.gamma.shape[lead:]
    numbers = {"e": norm.epsilon, "two": 2.0, "half": -0.5, "zero": 0.0, "count": float(norm.gamma.size)}
    return {
        **{name: np.array(value) for name, value in numbers.items()},
        "g": norm.gamma.reshape(shape),
        "b": beta.reshape(shape),
        "g1": norm.gamma.reshape(-1),
        "b1": beta.reshape(-1),
    }


CASES: tuple[Case, ...] = (
    layer_norm(8, 128, 768),
    layer_norm(1, 197, 384),
    rms_norm(1, 128, 2048),
    layer_norm_2d(1, 96, 56, 56),
    layer_norm_2d(1, 64, 128, 128),
    group_norm(32, 1, 320, 64, 64),
    group_norm(32, 1, 1280, 16, 16),
    group_norm(8, 1, 64, 128, 128),
    group_norm_last(32, 1, 64, 64, 320),
    group_norm_last(8, 1, 128, 128, 64),
    instance_norm(1, 64, 128, 128),
)
