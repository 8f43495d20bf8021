"""Spellings of a norm as a product: square, inverse root, affine, axes, type, Casts and opset are chosen independently."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.model.build import node

TYPES = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "fp64": (TensorProto.DOUBLE, np.float64),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
EPSILON = 1e-5

# name: (extents, reduced axes, the axes that gamma and beta vary along)
LAYOUTS = {
    "last": ((2, 3, 24), (2,), (2,)),
    "last of two": ((3, 24), (1,), (1,)),
    "last two": ((2, 4, 6), (1, 2), (1, 2)),
    "last three": ((2, 3, 4, 5), (1, 2, 3), (1, 2, 3)),
    "channels first": ((2, 12, 3, 5), (1,), (1,)),
    "spatial": ((2, 6, 5, 7), (2, 3), (1,)),
    "spatial, channels last": ((2, 5, 7, 6), (1, 2), (3,)),
    "volume": ((2, 3, 4, 5, 2), (2, 3, 4), (1,)),
    "square": ((6, 6, 6), (2,), (2,)),
    "last, parameters of two": ((2, 6, 8), (2,), (1, 2)),
    "everything": ((5, 7), (0, 1), (1,)),
}
CENTRED_SQUARES = (
    "mul",
    "pow",
    "pow of another type",
    "second sub",
    "fast",
    "fast, pow",
    "fast, relu",
    "fast, max",
    "fast, clip",
    "fast, clamped with epsilon",
    "unbiased: sum / (N-1)",
    "unbiased: mean · N/(N-1)",
    "unbiased: mean · N / (N-1)",
    "unbiased: Shape",
    "sum / N",
    "sum · 1/N",
    "sum / Shape",
    "sum of squares / N",
    "sum of squares · 1/N",
    "L2² / N",
    "(L2 / √N)²",
    "sum",
    "two means",
)
RMS_SQUARES = (
    "mul",
    "pow",
    "pow of another type",
    "sum / N",
    "sum · 1/N",
    "sum / Shape",
    "sum of squares / N",
    "L2² / N",
    "(L2 / √N)²",
    "sum",
    "two means",
)
ROOTS = (
    "sqrt, div",
    "sqrt, reciprocal",
    "1 / sqrt",
    "pow -0.5",
    "pow 0.5, div",
    "pow 0.5, reciprocal",
    "reciprocal, sqrt",
    "pow -1, sqrt",
    "pow of another type",
)
AFFINES = (
    "none",
    "gamma",
    "beta",
    "both",
    "gamma first",
    "gamma into root",
    "scalar gamma",
    "full shape",
    "1 + gamma",
    "(norm + beta) · gamma",
    "minus beta",
    "beta minus",
    "neg form",
    "neg form, other order",
    "sum operator",
    "two affines",
    "dynamic",
    "identity and dropout",
)
NEED_MEAN = ("beta minus", "neg form", "neg form, other order")
CASTS = ("none", "core", "core and affine", "square", "only in", "only out")
AXES = ("positive", "negative")
KEEPS = ("absent", "explicit", "dropped")
MEANS = ("mean", "sum / N", "negative", "pool")
OPSETS = tuple(range(7, 24))


@dataclass(frozen=True)
class Spelling:
    """One way to write a norm; every field is a name from the tables above."""

    centred: bool = True
    square: str = "pow"
    root: str = "sqrt, div"
    affine: str = "both"
    layout: str = "last"
    kind: str = "fp32"
    casts: str = "none"
    axes: str = "negative"
    keep: str = "absent"
    mean: str = "mean"
    opset: int = 17
    dynamic: bool = True
    swapped: bool = False

    @property
    def is_valid(self) -> bool:
        """Whether the opset has it, and whether it makes sense."""
        rules = (
            self.square in (CENTRED_SQUARES if self.centred else RMS_SQUARES),
            self.centred or (self.affine not in NEED_MEAN and self.mean == "mean"),
            self.kind != "bf16" or self.opset >= 13,
            "max" not in self.square or self.opset >= 8,
            self.affine != "sum operator" or self.opset >= 8,
            "another type" not in self.square + self.root or self.opset >= 12,
            self.casts == "none" or self.kind == "fp16",
            self.casts == "none" or self.affine not in NEED_MEAN,
            self.mean != "pool" or (self.layout in ("spatial", "volume") and self.kind != "bf16"),
            self.layout != "everything" or (self.affine != "dynamic" and not self.dynamic),
            self.square != "two means" or len(LAYOUTS[self.layout][1]) > 1,
        )
        return all(rules)


@dataclass(frozen=True)
class Expected:
    """What a recogniser must say, arrays of the rank of x."""

    centred: bool
    axes: tuple[int, ...]
    epsilon: float
    gamma: np.ndarray
    beta: np.ndarray
    output: str
    unit: float  # of the type that constants are stored in


class Writer:
    """Nodes and weights of one spelling."""

    def __init__(self, spelling: Spelling) -> None:
        self.s = spelling
        self.elem, self.dtype = TYPES[spelling.kind]
        self.extents, self.reduced, self.varying = LAYOUTS[spelling.layout]
        self.nodes: list = []
        self.weights: dict = {}
        self.rank = len(self.extents)
        self.count = math.prod(self.extents[a] for a in self.reduced)
        self.kept = True  # whether statistics keep their reduced dimensions

    # --- steps ---

    def op(self, op_type, *inputs, out=None, **attributes):
        out = out or f"{op_type.lower()}_{len(self.nodes)}"
        if self.s.swapped and op_type in ("Add", "Mul", "Max"):
            inputs = inputs[::-1]
        self.nodes.append(node(op_type, list(inputs), [out], **attributes))
        return out

    def const(self, value, dtype=None):
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(value).astype(dtype or self.dtype)
        return name

    def exponent(self, value):
        """Of the type of what it raises; bfloat16 is none for exponents before opset 15."""
        return self.const(value, np.float32 if self.dtype == ml_dtypes.bfloat16 else None)

    def number(self, value):
        return float(np.asarray(value).astype(self.dtype))

    def reduce(self, op_type, value, axes=None):
        axes = list(self.reduced if axes is None else axes)
        if self.s.axes == "negative":
            axes = [a - self.rank for a in axes]
        keep = {"absent": {}, "explicit": {"keepdims": 1}, "dropped": {"keepdims": 0}}[self.s.keep]
        first_input = 13 if op_type == "ReduceSum" else 18
        if self.s.opset >= first_input:
            out = self.op(op_type, value, self.const(axes, np.int64), **keep)
        else:
            out = self.op(op_type, value, axes=axes, **keep)
        return self.unsqueezed(out, axes) if self.s.keep == "dropped" else out

    def unsqueezed(self, value, axes):
        axes = sorted(a % self.rank for a in axes)
        if self.s.opset >= 13:
            return self.op("Unsqueeze", value, self.const(axes, np.int64))
        return self.op("Unsqueeze", value, axes=axes)

    def cast(self, value, elem):
        return self.op("Cast", value, to=elem)

    def counted(self):
        """N, computed of the shape of x, as a float."""
        shape = self.op("Shape", "x")
        sizes = self.op("Gather", shape, self.const(list(self.reduced), np.int64), axis=0)
        return self.op("ReduceProd", sizes, keepdims=0)

    # --- parts ---

    def mean(self, x):
        style = self.s.mean
        if style == "sum / N":
            return self.op("Div", self.reduce("ReduceSum", x), self.const(self.count))
        if style == "negative":
            return self.op("Neg", self.reduce("ReduceMean", self.op("Neg", x)))
        if style == "pool":
            return self.op("GlobalAveragePool", x)
        return self.reduce("ReduceMean", x)

    def squared(self, value):
        if "another type" in self.s.square:
            return self.op("Pow", value, self.const(2, np.int32 if self.s.swapped else np.int64))
        if "mul" in self.s.square:
            return self.op("Mul", value, value)
        return self.op("Pow", value, self.exponent(2.0))

    def variance(self, x, mean, deviation):
        """The variance plus epsilon, and k: what it is a multiple of."""
        s, n = self.s.square, self.count
        epsilon = self.const(EPSILON)
        if s.startswith("fast"):
            square = self.op("Pow", mean, self.exponent(2.0)) if "pow" in s else self.op("Mul", mean, mean)
            v = self.op("Sub", self.reduce("ReduceMean", self.op("Mul", x, x)), square)
            if "relu" in s:
                v = self.op("Relu", v)
            elif "max" in s:
                v = self.op("Max", v, self.const(0.0))
            elif "clip" in s:
                v = self.clip(v)
            w = self.op("Add", v, epsilon)
            return (self.clip(w) if "clamped" in s else w), 1.0
        value = self.op("Sub", x, mean) if s == "second sub" else deviation
        v, k = self.sum_of_squares(value)
        return self.op("Add", v, epsilon), k * (n if s == "sum" else 1.0)

    def clip(self, value):
        if self.s.opset >= 11:
            return self.op("Clip", value, self.const(0.0))
        return self.op("Clip", value, min=0.0)

    def sum_of_squares(self, value):
        s, n = self.s.square, self.count
        if s == "two means":
            first, last = self.reduced[:1], self.reduced[1:]
            if self.s.keep != "dropped":
                return self.reduce("ReduceMean", self.reduce("ReduceMean", self.squared(value), last), first), 1.0
        if s.startswith("sum of squares"):
            return self.divided(self.reduce("ReduceSumSquare", value)), 1.0
        if s == "L2² / N":
            norm = self.reduce("ReduceL2", value)
            return self.op("Div", self.op("Mul", norm, norm), self.const(n)), 1.0
        if s == "(L2 / √N)²":
            norm = self.op("Div", self.reduce("ReduceL2", value), self.const(math.sqrt(n)))
            return self.op("Mul", norm, norm), 1.0
        if s == "unbiased: Shape":
            less = self.op("Sub", self.counted(), self.const(1, np.int64))
            total = self.reduce("ReduceSum", self.squared(value))
            return self.op("Div", total, self.cast(less, self.elem)), n / (n - 1)
        if s == "unbiased: sum / (N-1)":
            return self.op("Div", self.reduce("ReduceSum", self.squared(value)), self.const(n - 1)), n / (n - 1)
        if s == "sum / Shape":
            count = self.cast(self.counted(), self.elem)
            return self.op("Div", self.reduce("ReduceSum", self.squared(value)), count), 1.0
        if s in ("sum / N", "sum · 1/N"):
            return self.divided(self.reduce("ReduceSum", self.squared(value))), 1.0
        if s == "sum":
            return self.reduce("ReduceSum", self.squared(value)), 1.0
        v = self.reduce("ReduceMean", self.squared(value))
        if s == "unbiased: mean · N/(N-1)":
            return self.op("Mul", v, self.const(n / (n - 1))), n / (n - 1)
        if s == "unbiased: mean · N / (N-1)":
            return self.op("Div", self.op("Mul", v, self.const(n)), self.const(n - 1)), n / (n - 1)
        return v, 1.0

    def divided(self, total):
        if "1/N" in self.s.square:
            return self.op("Mul", total, self.const(1.0 / self.count))
        return self.op("Div", total, self.const(self.count))

    def inverse(self, w):
        """1/sqrt(w), or None and sqrt(w) where it is to be divided by."""
        root = self.s.root
        if root == "sqrt, div":
            return None, self.op("Sqrt", w)
        if root == "pow 0.5, div":
            return None, self.op("Pow", w, self.exponent(0.5))
        if root == "sqrt, reciprocal":
            return self.op("Reciprocal", self.op("Sqrt", w)), None
        if root == "1 / sqrt":
            return self.op("Div", self.const(1.0), self.op("Sqrt", w)), None
        if root == "pow -0.5":
            return self.op("Pow", w, self.exponent(-0.5)), None
        if root == "pow 0.5, reciprocal":
            return self.op("Reciprocal", self.op("Pow", w, self.exponent(0.5))), None
        if root == "reciprocal, sqrt":
            return self.op("Sqrt", self.op("Reciprocal", w)), None
        if root == "pow -1, sqrt":
            return self.op("Sqrt", self.op("Pow", w, self.exponent(-1.0))), None
        return self.op("Pow", w, self.const(-0.5, np.float32 if self.s.kind != "fp32" else np.float64)), None

    def scaled(self, value, root):
        inverse, divisor = root
        return self.op("Div", value, divisor) if inverse is None else self.op("Mul", value, inverse)

    def parameter(self, seed, *, full=False):
        """A parameter, its shape without leading ones, and its values at the rank of x."""
        rng = np.random.default_rng(seed)
        wide = [e if a in self.varying or (full and a in self.reduced) else 1 for a, e in enumerate(self.extents)]
        values = (rng.uniform(0.5, 2, wide) * rng.choice([-1, 1], wide)).astype(self.dtype)
        lead = next((i for i, e in enumerate(wide) if e > 1), len(wide))
        return values.reshape(wide[lead:]), values.astype(np.float64)

    # --- the whole ---

    def write(self):
        s = self.s
        x, half, wide = "x", self.elem, TensorProto.FLOAT
        if s.casts in ("core", "core and affine", "only in"):
            x, self.dtype, self.elem = self.cast("x", wide), np.float32, wide
        mean = self.mean(x) if s.centred else None
        deviation = self.op("Sub", x, mean) if s.centred and s.affine not in NEED_MEAN else x
        statistic = deviation
        if s.affine in NEED_MEAN and not s.square.startswith("fast"):
            statistic = self.op("Sub", x, mean)
        if s.casts == "square":
            statistic, self.dtype, self.elem = self.cast(statistic, wide), np.float32, wide
            x_wide, mean_wide = (
                (self.cast(x, wide), self.cast(mean, wide))
                if s.square.startswith("fast") or s.square == "second sub"
                else (x, mean)
            )
            w, k = self.variance(x_wide, mean_wide, statistic)
        else:
            w, k = self.variance(x, mean, statistic)
        epsilon = self.number(EPSILON) / k
        root = self.inverse(w)
        if s.casts == "square":
            root = tuple(None if item is None else self.cast(item, half) for item in root)
            self.dtype, self.elem = TYPES[s.kind][1], half
        if s.casts == "core":
            n = self.cast(self.scaled(deviation, root), half)
            self.dtype, self.elem = TYPES[s.kind][1], half
            stages = self.affine(n, None, x, mean, n)
        else:
            stages = self.affine(None, root, x, mean, deviation)
        if s.casts in ("core and affine", "only out"):
            target, self.dtype = (half, TYPES[s.kind][1]) if s.casts == "core and affine" else (wide, np.float32)
            stages.append((self.cast(stages[-1][0], target), *stages[-1][1:]))
        outputs = self.finish(stages[-1][0])
        end, gamma, beta = next((stage for stage in reversed(stages) if self.fits(*stage[1:])), stages[-1])
        gamma = (1.0 if gamma is None else gamma) / math.sqrt(k) * np.ones((1,) * self.rank)
        beta = np.zeros((1,) * self.rank) if beta is None else beta
        unit = float(ml_dtypes.finfo(TYPES[s.kind][1]).eps)
        return Expected(s.centred, self.reduced, epsilon, gamma, beta, end, unit), outputs

    def affine(self, n, root, x, mean, deviation):
        """Every tensor from the core on that is a norm, in order: its name, gamma and beta."""
        s = self.s.affine
        g, wide_g = self.parameter(1, full=s == "full shape")
        b, wide_b = self.parameter(2)
        if n is None and s in ("gamma first", "gamma into root", *NEED_MEAN):
            return self.entangled(root, x, mean, deviation, (g, wide_g), (b, wide_b))
        core = self.scaled(deviation, root) if n is None else n
        stages = [(core, None, None)]

        def then(op_type, constant, gamma, beta):
            stages.append((self.op(op_type, stages[-1][0], self.const(constant)), gamma, beta))

        if s == "identity and dropout":
            stages.append((self.op("Identity", self.op("Dropout", core)), None, None))
        elif s == "beta":
            then("Add", b, None, wide_b)
        elif s == "scalar gamma":
            scalar = np.full((1,) * self.rank, 2.5)
            then("Mul", [2.5], scalar, None)
            then("Add", b, scalar, wide_b)
        elif s == "1 + gamma":
            one = self.op("Add", self.const(g), self.const(1.0))
            wide = (wide_g.astype(self.dtype) + np.asarray(1.0, self.dtype)).astype(np.float64)
            stages.append((self.op("Mul", core, one), wide, None))
        elif s == "(norm + beta) · gamma":
            then("Add", b, None, wide_b)
            then("Mul", g, wide_g, wide_b * wide_g)
        elif s == "minus beta":
            then("Mul", g, wide_g, None)
            then("Sub", b, wide_g, -wide_b)
        elif s == "sum operator":
            then("Mul", g, wide_g, None)
            then("Sum", b, wide_g, wide_b)
        elif s == "gamma":
            then("Mul", g, wide_g, None)
        elif s not in ("none", "two affines", "dynamic"):
            then("Mul", g, wide_g, None)
            then("Add", b, wide_g, wide_b)
        return stages

    def entangled(self, root, x, mean, deviation, gamma, beta):
        """Gamma goes into a factor before the core is there."""
        s, (g, wide_g), (b, wide_b) = self.s.affine, gamma, beta
        if s == "gamma first":
            first = self.scaled(self.op("Mul", deviation, self.const(g)), root)
            return [(first, wide_g, None), (self.op("Add", first, self.const(b)), wide_g, wide_b)]
        factor = self.root_times(root, g)
        if s == "gamma into root":
            first = self.op("Mul", deviation, factor)
            return [(first, wide_g, None), (self.op("Add", first, self.const(b)), wide_g, wide_b)]
        scaled = self.op("Mul", x, factor)
        if s == "beta minus":
            rest = self.op("Sub", self.const(b), self.op("Mul", mean, factor))
            return [(self.op("Add", scaled, rest), wide_g, wide_b)]
        shift = self.op("Mul", self.op("Neg", mean), factor)
        if s == "neg form":
            return [(self.op("Add", scaled, self.op("Add", shift, self.const(b))), wide_g, wide_b)]
        first = self.op("Add", scaled, shift)
        return [(first, wide_g, None), (self.op("Add", first, self.const(b)), wide_g, wide_b)]

    def fits(self, gamma, beta):
        """Whether operators have parameters along the dimensions along which these vary."""
        parameters = [p for p in (gamma, beta) if p is not None]
        varying = {a for p in parameters for a, e in enumerate(p.shape) if e > 1}
        if not self.s.centred and beta is not None:
            return False
        return any(varying <= set(axes) for axes in (self.reduced, (1,), (self.rank - 1,)))

    def root_times(self, root, g):
        inverse, divisor = root
        if inverse is None:
            return self.op("Div", self.const(g), divisor)
        return self.op("Mul", inverse, self.const(g))

    def finish(self, end):
        """Names of the outputs, with what reads the norm."""
        if self.s.affine == "two affines":
            for i in range(2):
                (g, _), (b, _) = self.parameter(3 + i), self.parameter(5 + i)
                self.op("Add", self.op("Mul", end, self.const(g)), self.const(b), out=f"y{i}")
            return ["y0", "y1"]
        if self.s.affine == "dynamic":
            self.op("Add", self.op("Mul", end, "scale"), "shift", out="y")
            return ["y"]
        self.op("Relu", end, out="y")
        return ["y"]


def build(spelling):
    """The model, and what must be recognised in it."""
    writer = Writer(spelling)
    expected, outputs = writer.write()
    elem = TYPES[spelling.kind][0]
    dims = list(writer.extents)
    if spelling.dynamic:
        dims[0] = "batch"
    if spelling.dynamic and spelling.layout == "last":
        dims[1] = "length"
    inputs = [helper.make_tensor_value_info("x", elem, dims)]
    out_elem = TYPES["fp32"][0] if spelling.casts in ("only in", "only out") else elem
    if spelling.affine == "dynamic":
        # one scale per sample: it stays outside of every operator
        modulation = [dims[0], *[1] * (writer.rank - 2), dims[-1]]
        inputs += [helper.make_tensor_value_info(name, out_elem, modulation) for name in ("scale", "shift")]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in writer.weights.items()]
    ends = [helper.make_tensor_value_info(name, out_elem, dims) for name in outputs]
    graph = helper.make_graph(writer.nodes, "g", inputs, ends, tensors)
    imports = [helper.make_opsetid("", spelling.opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8), expected


CHOICES = {
    "centred": (True, False),
    "square": CENTRED_SQUARES,
    "root": ROOTS,
    "affine": AFFINES,
    "layout": tuple(LAYOUTS),
    "kind": tuple(TYPES),
    "casts": CASTS,
    "axes": AXES,
    "keep": KEEPS,
    "mean": MEANS,
    "opset": OPSETS,
    "dynamic": (True, False),
    "swapped": (False, True),
}


def pairwise(seed=0):
    """Spellings such that every valid pair of choices occurs in one; always the same ones."""
    rng = random.Random(seed)
    names = list(CHOICES)
    missing = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in CHOICES[a] for y in CHOICES[b]}
    found = []
    for want in sorted(missing, key=repr):
        if want not in missing:
            continue
        drawn = [{**{name: rng.choice(CHOICES[name]) for name in names}, **dict(want)} for _ in range(200)]
        valid = [choice for choice in drawn if Spelling(**choice).is_valid][:30]
        if not valid:
            continue  # no valid spelling has this pair
        best = max(valid, key=lambda choice: len(_pairs(choice) & missing))
        missing -= _pairs(best)
        found.append(Spelling(**best))
    return found


def _pairs(drawn):
    items = list(drawn.items())
    return set(itertools.combinations(items, 2))
