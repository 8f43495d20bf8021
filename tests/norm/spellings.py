"""Norms as exporters spell them, each with the normal form that it has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from onnx import TensorProto

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.norm.confirm import confirm
from normfold.norm.meaning import Norm
from tests.model.build import net, node

FLOAT = TensorProto.FLOAT
MICROSOFT = "com.microsoft"
E32 = float(np.float32(1e-5))


def vector(size, seed=0):
    """float32 parameters, all different and none near zero."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.5, 2, size) * rng.choice([-1, 1], size)).astype(np.float32)


@dataclass
class Case:
    """A piece of graph and the norm that it is."""

    nodes: list
    inputs: dict
    weights: dict
    norm: Norm
    opset: int = 17
    base: str = "x"
    output: str = "y"
    snap: float = 0.0
    operands: tuple = ()
    elem: int = FLOAT
    extra: dict = field(default_factory=dict)

    def model(self):
        return net(
            self.nodes, self.inputs, [self.output], self.weights, opset=self.opset, elem=self.elem, domains=(MICROSOFT,)
        )

    def confirm(self, **options):
        values = load(self.model()).graph.values
        options.setdefault("snap", self.snap)
        return confirm(
            Constants(),
            values[self.base],
            values[self.output],
            self.norm,
            operands={name: values[name] for name in self.operands},
            **options,
        )

    def taken_for(self, **changes):
        """The same graph, taken for another norm."""
        return replace(self, norm=replace(self.norm, **changes))


def norm_of(dims, axes, *, epsilon=E32, gamma=None, beta=None, centred=True, **more):
    wide = [None if p is None else np.asarray(p, np.float64) for p in (gamma, beta)]
    return Norm(centred, tuple(dims), tuple(axes), epsilon, *wide, FLOAT, FLOAT, FLOAT, **more)


def along(axis, rank, values):
    """A vector along one axis of a tensor."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


H = 24
G, B = vector(H, 1), vector(H, 2)
DIMS = ("batch", "length", H)
LAYER = {"gamma": along(2, 3, G), "beta": along(2, 3, B)}


def scalars(**more):
    return {"two": np.float32(2), "e": np.float32(1e-5), "g": G, "b": B, **more}


def layer_norm(core, dims=DIMS, **weights):
    """`core` makes `n` of `x`; gamma and beta follow."""
    nodes = [*core, node("Mul", ["n", "g"], ["t"]), node("Add", ["t", "b"], ["y"])]
    return Case(nodes, {"x": list(dims)}, scalars(**weights), norm_of(dims, [2], **LAYER))


def variance(square=None):
    """`x` to its deviation `d` and variance `v`."""
    return [
        node("ReduceMean", ["x"], ["m"], axes=[-1]),
        node("Sub", ["x", "m"], ["d"]),
        square or node("Pow", ["d", "two"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=[2]),
    ]


ROOT = (node("Add", ["v", "e"], ["w"]), node("Sqrt", ["w"], ["s"]), node("Div", ["d", "s"], ["n"]))


def torch_layer_norm(dims=DIMS):
    return layer_norm([*variance(), *ROOT], dims)


def power_of_minus_half():
    core = [*variance(), node("Add", ["v", "e"], ["w"]), node("Pow", ["w", "h"], ["i"]), node("Mul", ["d", "i"], ["n"])]
    return layer_norm(core, h=np.float16(-0.5))


def beta_minus():
    nodes = [
        *variance(node("Mul", ["d", "d"], ["p"])),
        node("Add", ["v", "e"], ["w"]),
        node("Sqrt", ["w"], ["s"]),
        node("Reciprocal", ["s"], ["r"]),
        node("Mul", ["r", "g"], ["k"]),
        node("Mul", ["x", "k"], ["a"]),
        node("Mul", ["m", "k"], ["h"]),
        node("Sub", ["b", "h"], ["c"]),
        node("Add", ["a", "c"], ["y"]),
    ]
    return Case(nodes, {"x": list(DIMS)}, scalars(), norm_of(DIMS, [2], **LAYER))


def fast_variance():
    core = [
        node("ReduceMean", ["x"], ["m"], axes=[-1]),
        node("Mul", ["x", "x"], ["xx"]),
        node("ReduceMean", ["xx"], ["u"], axes=[-1]),
        node("Mul", ["m", "m"], ["z"]),
        node("Sub", ["u", "z"], ["f"]),
        node("Max", ["f", "zero"], ["v"]),
        node("Sub", ["x", "m"], ["d"]),
        *ROOT,
    ]
    return layer_norm(core, zero=np.float32(0))


def reduce_l2():
    """sqrt(‖d‖²/N + e), with 1/N rounded to float32."""
    share = np.float32(1 / H)
    core = [
        *variance()[:2],
        node("ReduceL2", ["d"], ["l"], axes=[-1]),
        node("Pow", ["l", "two"], ["q"]),
        node("Mul", ["q", "share"], ["v"]),
        *ROOT,
    ]
    return replace(layer_norm(core, share=share), snap=abs(float(share) * H - 1))


def l2_without_mean():
    """d / sqrt(Σd² + e): k = N, which goes into gamma and epsilon."""
    core = [*variance()[:2], node("ReduceSumSquare", ["d"], ["v"], axes=[-1]), *ROOT]
    case = layer_norm(core)
    return case.taken_for(gamma=along(2, 3, G.astype(np.float64)) / np.sqrt(H), epsilon=E32 / H)


def unbiased():
    core = [
        *variance()[:2],
        node("Mul", ["d", "d"], ["p"]),
        node("ReduceSum", ["p", "last"], ["q"]),
        node("Div", ["q", "less"], ["v"]),
        *ROOT,
    ]
    case = layer_norm(core, last=np.int64([-1]), less=np.float32(H - 1))
    share = (H - 1) / H
    return case.taken_for(gamma=along(2, 3, G.astype(np.float64)) * np.sqrt(share), epsilon=E32 * share)


def unbiased_with_computed_count():
    count = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "minus"], ["count"], axis=0),
        node("Sub", ["count", "one"], ["less"]),
        node("Cast", ["less"], ["divisor"], to=FLOAT),
    ]
    core = [
        *variance()[:2],
        *count,
        node("ReduceSumSquare", ["d"], ["q"], axes=[-1]),
        node("Div", ["q", "divisor"], ["v"]),
        *ROOT,
    ]
    return replace(
        unbiased(),
        **{k: getattr(layer_norm(core, minus=np.int64(-1), one=np.int64(1)), k) for k in ("nodes", "weights")},
    )


def mean_minus_x():
    """The deviation the wrong way round: gamma with the other sign."""
    core = variance()
    core[1] = node("Sub", ["m", "x"], ["d"])
    return layer_norm([*core, *ROOT]).taken_for(gamma=-along(2, 3, G.astype(np.float64)))


def half_precision():
    """Casts around everything, and a shape taken in front of the first."""
    core = [
        node("Cast", ["x16"], ["x"], to=FLOAT),
        *variance(),
        *ROOT[:2],
        node("Div", ["d", "s"], ["n32"]),
        node("Cast", ["n32"], ["n16"], to=TensorProto.FLOAT16),
        node("Shape", ["x16"], ["shape"]),
        node("Expand", ["n16", "shape"], ["n"]),
    ]
    case = layer_norm(core, g=G.astype(np.float16), b=B.astype(np.float16))
    gamma, beta = (along(2, 3, p.astype(np.float16).astype(np.float64)) for p in (G, B))
    return replace(case, inputs={"x16": list(DIMS)}, elem=TensorProto.FLOAT16).taken_for(gamma=gamma, beta=beta)


def dynamic_affine():
    """adaLN: scale and bias are computed from something else."""
    nodes = [
        *variance(),
        *ROOT,
        node("Add", ["modulation", "one"], ["scale"]),
        node("Mul", ["n", "scale"], ["t"]),
        node("Add", ["t", "shift"], ["y"]),
    ]
    inputs = {"x": list(DIMS), "modulation": [H], "shift": [H]}
    norm = norm_of(DIMS, [2], scale="scale", bias="shift")
    return Case(nodes, inputs, scalars(one=np.float32(1)), norm, operands=("scale", "shift"))


def batch_norm_of_computed_statistics():
    """Keras 2: a LayerNorm of [N, D] as FusedBatchNormV3."""
    nodes = [
        node("Reshape", ["x", "tall"], ["r"]),
        node("ReduceMean", ["r"], ["m"], axes=[0, 2, 3], keepdims=0),
        node("ReduceMean", ["r"], ["mk"], axes=[0, 2, 3]),
        node("Sub", ["r", "mk"], ["d"]),
        node("ReduceSumSquare", ["d"], ["q"], axes=[0, 2, 3], keepdims=0),
        node("Div", ["q", "count"], ["v"]),
        node("Shape", ["m"], ["rows"]),
        node("ConstantOfShape", ["rows"], ["zeros"]),
        node("Expand", ["one", "rows"], ["ones"]),
        node("BatchNormalization", ["r", "ones", "zeros", "m", "v"], ["z"], epsilon=1e-5),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["z", "shape"], ["n"]),
        node("Mul", ["n", "g"], ["t"]),
        node("Add", ["t", "b"], ["y"]),
    ]
    weights = scalars(tall=np.int64([1, -1, H, 1]), count=np.float32(H), one=np.float32([1]))
    dims = ("batch", H)
    norm = norm_of(dims, [1], gamma=G.reshape(1, -1), beta=B.reshape(1, -1))
    return Case(nodes, {"x": list(dims)}, weights, norm)


def rms(reciprocal=True):
    core = [
        node("Pow", ["x", "two"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=[-1]),
        node("Add", ["v", "e"], ["w"]),
        node("Sqrt", ["w"], ["s"]),
        *(
            [node("Reciprocal", ["s"], ["r"]), node("Mul", ["x", "r"], ["n"])]
            if reciprocal
            else [node("Div", ["x", "s"], ["n"])]
        ),
        node("Mul", ["g", "n"], ["y"]),
    ]
    norm = norm_of(DIMS, [2], gamma=LAYER["gamma"], centred=False)
    return Case(core, {"x": list(DIMS)}, scalars(), norm)


def channels_first():
    dims = ("batch", 6, "height", "width")
    g, b = vector(6, 3), vector(6, 4)
    axes = {"axes": [1]}
    nodes = [
        node("ReduceMean", ["x"], ["m"], **axes),
        node("Sub", ["x", "m"], ["d"]),
        node("Mul", ["d", "d"], ["p"]),
        node("ReduceMean", ["p"], ["v"], **axes),
        *ROOT,
        node("Mul", ["n", "gc"], ["t"]),
        node("Add", ["t", "bc"], ["y"]),
    ]
    weights = {"e": np.float32(1e-5), "gc": g.reshape(6, 1, 1), "bc": b.reshape(6, 1, 1)}
    return Case(nodes, {"x": list(dims)}, weights, norm_of(dims, [1], gamma=along(1, 4, g), beta=along(1, 4, b)))


GROUP_DIMS = ("batch", 12, "height", "width")
GC, BC = vector(12, 5), vector(12, 6)
GROUP = {"groups": 3, "channel": 1, "gamma": along(1, 4, GC), "beta": along(1, 4, BC)}


def group_norm_idiom(grouping=(0, 3, -1)):
    """TorchScript: Reshape, InstanceNormalization with ones, Reshape to the shape of x, Mul, Add."""
    nodes = [
        node("Reshape", ["x", "grouping"], ["r"]),
        node("InstanceNormalization", ["r", "ones", "zeros"], ["i"], epsilon=1e-5),
        node("Shape", ["x"], ["shape"]),
        node("Reshape", ["i", "shape"], ["n"]),
        node("Mul", ["n", "gc"], ["t"]),
        node("Add", ["t", "bc"], ["y"]),
    ]
    weights = {
        "grouping": np.int64(grouping),
        "ones": np.ones(3, np.float32),
        "zeros": np.zeros(3, np.float32),
        "gc": GC.reshape(12, 1, 1),
        "bc": BC.reshape(12, 1, 1),
    }
    return Case(nodes, {"x": list(GROUP_DIMS)}, weights, norm_of(GROUP_DIMS, [2, 3], **GROUP))


def group_norm_channels_last(split=(3, 4), axes=(1, 2, 4)):
    """tf.nn.moments over the spatial axes and the inner channel factor."""
    dims = ("batch", "height", "width", 12)
    parts = [node("Slice", ["shape", f"s{i}", f"s{i + 1}"], [f"d{i}"]) for i in range(3)]
    nodes = [
        node("Shape", ["x"], ["shape"]),
        *parts,
        node("Concat", ["d0", "d1", "d2", "split"], ["wide"], axis=0),
        node("Reshape", ["x", "wide"], ["z"]),
        node("ReduceMean", ["z"], ["m"], axes=list(axes)),
        node("Sub", ["z", "m"], ["d"]),
        node("Mul", ["d", "d"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=list(axes)),
        node("Add", ["v", "e"], ["w"]),
        node("Sqrt", ["w"], ["s"]),
        node("Reciprocal", ["s"], ["r"]),
        node("Mul", ["r", "gg"], ["i"]),
        node("Neg", ["m"], ["minus"]),
        node("Mul", ["minus", "i"], ["mi"]),
        node("Add", ["mi", "bg"], ["c"]),
        node("Mul", ["z", "i"], ["zi"]),
        node("Add", ["zi", "c"], ["o"]),
        node("Reshape", ["o", "shape"], ["y"]),
    ]
    weights = {
        "split": np.int64(split),
        "e": np.float32(1e-5),
        "gg": GC.reshape(1, 1, 1, *split),
        "bg": BC.reshape(1, 1, 1, *split),
        **{f"s{i}": np.int64([i]) for i in range(4)},
    }
    norm = norm_of(dims, [1, 2], gamma=along(3, 4, GC), beta=along(3, 4, BC), groups=3, channel=3)
    return Case(nodes, {"x": list(dims)}, weights, norm)


def group_normalization(opset):
    """The operator, with a parameter per group or per channel."""
    size = 3 if opset < 21 else 12
    g, b = vector(size, 7), vector(size, 8)
    nodes = [node("GroupNormalization", ["x", "g", "b"], ["y"], num_groups=3, epsilon=1e-5)]
    wide = {"gamma": along(1, 4, np.repeat(g, 12 // size)), "beta": along(1, 4, np.repeat(b, 12 // size))}
    norm = norm_of(GROUP_DIMS, [2, 3], **{**GROUP, **wide})
    return Case(nodes, {"x": list(GROUP_DIMS)}, {"g": g, "b": b}, norm, opset)


def contrib_group_norm():
    dims = ("batch", "height", "width", 12)
    nodes = [
        node(
            "GroupNorm", ["x", "g", "b"], ["y"], groups=3, activation=0, channels_last=1, epsilon=1e-5, domain=MICROSOFT
        )
    ]
    norm = norm_of(dims, [1, 2], gamma=along(3, 4, GC), beta=along(3, 4, BC), groups=3, channel=3)
    return Case(nodes, {"x": list(dims)}, {"g": GC, "b": BC}, norm)


def instance_norm(axes=(2, 3)):
    dims = ("batch", 6, "height", "width")
    g, b = vector(6, 3), vector(6, 4)
    nodes = [node("InstanceNormalization", ["x", "g", "b"], ["y"], epsilon=1e-5)]
    norm = norm_of(dims, axes, gamma=along(1, 4, g), beta=along(1, 4, b))
    return Case(nodes, {"x": list(dims)}, {"g": g, "b": b}, norm)


def mean_variance_normalization():
    case = instance_norm()
    nodes = [
        node("MeanVarianceNormalization", ["x"], ["n"], axes=[2, 3]),
        node("Mul", ["n", "gc"], ["t"]),
        node("Add", ["t", "bc"], ["y"]),
    ]
    weights = {"gc": case.weights["g"].reshape(6, 1, 1), "bc": case.weights["b"].reshape(6, 1, 1)}
    return replace(case, nodes=nodes, weights=weights).taken_for(epsilon=1e-18)


def layer_normalization():
    dims = ("batch", 4, 6)
    g, b = vector(24, 9).reshape(4, 6), vector(24, 10).reshape(4, 6)
    nodes = [node("LayerNormalization", ["x", "g", "b"], ["y"], axis=1, epsilon=1e-5)]
    return Case(nodes, {"x": list(dims)}, {"g": g, "b": b}, norm_of(dims, [1, 2], gamma=g[None], beta=b[None]))


def skip_layer_normalization():
    """The base is the sum that the operator makes."""
    nodes = [node("SkipLayerNormalization", ["a", "c", "g", "b"], ["y", "", "", "x"], epsilon=1e-5, domain=MICROSOFT)]
    return Case(nodes, {"a": list(DIMS), "c": list(DIMS)}, scalars(), norm_of(DIMS, [2], **LAYER))


SPELLINGS = {
    "torch": torch_layer_norm,
    "static": lambda: torch_layer_norm((2, 3, H)),
    "one row": lambda: torch_layer_norm((1, 1, H)),
    "power": power_of_minus_half,
    "beta minus": beta_minus,
    "fast variance": fast_variance,
    "L2": reduce_l2,
    "sum of squares": l2_without_mean,
    "unbiased": unbiased,
    "unbiased with computed count": unbiased_with_computed_count,
    "mean minus x": mean_minus_x,
    "half precision": half_precision,
    "dynamic affine": dynamic_affine,
    "BatchNormalization of computed statistics": batch_norm_of_computed_statistics,
    "RMS": rms,
    "RMS by division": lambda: rms(reciprocal=False),
    "channels-first LayerNorm": channels_first,
    "GroupNorm idiom": group_norm_idiom,
    "GroupNorm channels-last": group_norm_channels_last,
    "GroupNormalization-18": lambda: group_normalization(18),
    "GroupNormalization-21": lambda: group_normalization(21),
    "contrib GroupNorm": contrib_group_norm,
    "InstanceNormalization": instance_norm,
    "MeanVarianceNormalization": mean_variance_normalization,
    "LayerNormalization": layer_normalization,
    "SkipLayerNormalization": skip_layer_normalization,
}
