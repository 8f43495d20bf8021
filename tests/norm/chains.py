"""Random chains of operators around a tensor, and what a form says that a tensor is, in numbers."""

from __future__ import annotations

import math
import random

import numpy as np

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes
from normfold.norm.evaluate import Evaluator, Unknown
from normfold.norm.forms import Normal, Poly, Power
from normfold.norm.frame import Frame
from normfold.norm.numbers import Extents
from normfold.norm.recognise import finer
from normfold.norm.transfer import transfer
from normfold.norm.views import SplitError, real_atoms, sizes
from tests.model.build import net, node

# Square shapes and repeated extents, so that whatever is aligned by extents alone goes wrong.
SHAPES = ((4, 4), (2, 2, 2), (3, 3, 3), (2, 4, 4), (2, 4, 2, 2), (4,), (1, 4, 1), (2, 3, 4))
BINARY = ("Add", "Sub", "Mul", "Div")
UNARY = ("Neg", "Reciprocal", "Sqrt", "Identity", "Relu", "Abs")
REDUCTIONS = ("ReduceMean", "ReduceMean", "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2")
EXPONENTS = (2.0, 2.0, 2.0, 0.5, -0.5, -1.0, 1.0, 3.0)


class Chain:
    """A random graph; every value is known by name, with its shape."""

    def __init__(self, seed: int, steps: int = 26) -> None:
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.shape = self.rng.choice(SHAPES)
        self.nodes: list = []
        self.weights: dict = {}
        self.known = {"x": self.shape}
        self.usual = sorted(self.rng.sample(range(len(self.shape)), self.rng.randint(1, len(self.shape))))
        for _ in range(steps):
            self.step()
        self.model = net(self.nodes, {"x": list(self.shape)}, list(self.known)[-1:], self.weights, opset=18)

    def emit(self, op_type, inputs, shape, **attributes):
        if len(shape) > 5 or math.prod(shape) > 512:
            return None
        name = f"v{len(self.known)}"
        self.nodes.append(node(op_type, inputs, [name], **attributes))
        self.known[name] = tuple(shape)
        return name

    def const(self, values, dtype=np.float32):
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(values, dtype)
        return name

    def pick(self):
        """A value, more often one of the latest."""
        names = list(self.known)
        return self.rng.choice(names if self.rng.random() < 0.4 else ["x", *names[-4:]])

    def step(self):
        often = (self.binary, self.constant, self.reduction, self.layout)
        self.rng.choice(
            (*often, *often, self.binary, self.unary, self.power, self.statistics, self.clamp, self.operator)
        )()

    # --- kinds of steps ---

    def binary(self):
        a, b = self.pick(), self.pick()
        self.joined(self.rng.choice(BINARY), a, b)

    def joined(self, op_type, a, b):
        try:
            return self.emit(op_type, [a, b], np.broadcast_shapes(self.known[a], self.known[b]))
        except ValueError:
            return None

    def constant(self):
        a = self.pick()
        rank = self.rng.choice((0, len(self.known[a]), len(self.known[a]), len(self.shape)))
        wide = self.known[a][-rank:] if 0 < rank <= len(self.known[a]) else (1,) * rank
        shape = [e if self.rng.random() < 0.6 else self.rng.choice((1, 1, self.shape[-1])) for e in wide]
        uniform = self.rng.random() < 0.5
        values = self.numbers.uniform(0.5, 2, [] if uniform else shape) * self.rng.choice((1, 1, -1))
        c = self.const(np.broadcast_to(values, shape))
        try:
            target = np.broadcast_shapes(self.known[a], tuple(shape))
        except ValueError:
            return
        operands = [a, c] if self.rng.random() < 0.6 else [c, a]
        self.emit(self.rng.choice(BINARY), operands, target)

    def unary(self):
        a = self.pick()
        self.emit(self.rng.choice(UNARY), [a], self.known[a])

    def power(self):
        a = self.pick()
        self.emit("Pow", [a, self.const(self.rng.choice(EXPONENTS))], self.known[a])

    def clamp(self):
        a = self.pick()
        self.emit("Max", [a, self.const(self.rng.choice((0.0, 1e-3, -1.0)))], self.known[a])

    def axes(self, rank):
        if rank == len(self.shape) and self.rng.random() < 0.8:
            return self.usual
        return sorted(self.rng.sample(range(rank), self.rng.randint(1, rank)))

    def reduced(self, op_type, a, axes, keep):
        shape = [1 if i in axes else e for i, e in enumerate(self.known[a]) if keep or i not in axes]
        signed = [i - len(self.known[a]) if self.rng.random() < 0.5 else i for i in axes]
        return self.emit(op_type, [a, self.const(signed, np.int64)], shape, keepdims=int(keep))

    def reduction(self):
        a = self.pick()
        if self.known[a]:
            self.reduced(self.rng.choice(REDUCTIONS), a, self.axes(len(self.known[a])), self.rng.random() < 0.7)

    def statistics(self):
        """A variance with an epsilon and its root: what random steps alone hardly ever make."""
        a = self.pick() if self.rng.random() < 0.4 else "x"
        if not self.known[a]:
            return
        axes = self.axes(len(self.known[a]))
        m = self.reduced("ReduceMean", a, axes, True)
        d = self.joined("Sub", a, m) if m and self.rng.random() < 0.7 else a
        p = self.joined("Mul", d, d) if d else None
        v = self.reduced(self.rng.choice(("ReduceMean", "ReduceSum")), p, axes, True) if p else None
        w = self.joined_constant("Add", v, 0.1) if v else None
        root = self.emit("Sqrt", [w], self.known[w]) if w else None
        if root and self.rng.random() < 0.7:
            self.joined("Div", self.rng.choice((d, "x", m or a)), root)

    def joined_constant(self, op_type, a, value):
        return self.emit(op_type, [a, self.const(value)], self.known[a])

    def layout(self):
        a = self.pick()
        shape = self.known[a]
        rank = len(shape)
        kind = self.rng.choice(("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Expand", "Flatten"))
        if kind == "Transpose" and rank > 1:
            perm = self.rng.sample(range(rank), rank)
            self.emit(kind, [a], [shape[i] for i in perm], perm=perm)
        elif kind == "Reshape":
            target = self.rng.choice((self.split(shape), self.shape, self.merged(shape)))
            if math.prod(target) == math.prod(shape):
                self.emit(kind, [a, self.const(target, np.int64)], target)
        elif kind == "Unsqueeze":
            at = self.rng.randint(0, rank)
            self.emit(kind, [a, self.const([at], np.int64)], [*shape[:at], 1, *shape[at:]])
        elif kind == "Squeeze" and 1 in shape:
            at = self.rng.choice([i for i, e in enumerate(shape) if e == 1])
            self.emit(kind, [a, self.const([at], np.int64)], [*shape[:at], *shape[at + 1 :]])
        elif kind == "Expand":
            try:
                self.emit(kind, [a, self.const(self.shape, np.int64)], np.broadcast_shapes(shape, self.shape))
            except ValueError:
                return
        elif kind == "Flatten" and rank:
            at = self.rng.randint(0, rank)
            self.emit(kind, [a], [math.prod(shape[:at]), math.prod(shape[at:])], axis=at)

    def split(self, shape):
        found: list[int] = []
        for e in shape:
            found += [2, e // 2] if e % 2 == 0 and self.rng.random() < 0.5 else [e]
        return tuple(found)

    def merged(self, shape):
        if len(shape) < 2:
            return shape
        at = self.rng.randrange(len(shape) - 1)
        return (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])

    def operator(self):
        """A norm that is one operator."""
        a = self.pick()
        shape = self.known[a]
        if len(shape) < 2:
            return
        kind = self.rng.choice(
            ("LayerNormalization", "InstanceNormalization", "MeanVarianceNormalization", "GroupNormalization")
        )
        if kind == "LayerNormalization":
            axis = self.rng.randrange(len(shape))
            self.emit(kind, [a, self.const(self.numbers.uniform(0.5, 2, shape[axis:]))], shape, axis=axis, epsilon=0.1)
        elif kind == "MeanVarianceNormalization":
            self.emit(kind, [a], shape, axes=self.axes(len(shape)))
        elif len(shape) > 2:
            groups = self.rng.choice([g for g in (1, 2, shape[1]) if shape[1] % g == 0])
            size = groups if kind == "GroupNormalization" else shape[1]
            g, b = (self.const(self.numbers.uniform(0.5, 2, size)) for _ in range(2))
            more = {"num_groups": groups} if kind == "GroupNormalization" else {}
            self.emit(kind, [a, g, b], shape, epsilon=0.1, **more)


def frames(chain):
    """Frames of x over several axes, worked out."""
    loaded = load(chain.model)
    shapes = Shapes(Constants())
    base = loaded.graph.values["x"]
    positions = {id(item): i for i, item in enumerate(loaded.graph.nodes)}
    for _ in range(2):
        chosen = set(chain.usual if chain.rng.random() < 0.7 else range(chain.rng.randint(1, len(chain.shape))))
        parts = [[] if e == 1 else [2, 2] if e == 4 and chain.rng.random() < 0.4 else [e] for e in chain.shape]
        inner = chain.rng.random() < 0.4  # of a dimension that is cut, only the inner factor
        while True:
            frame = Frame(base, loaded.graph, shapes, Extents(shapes), parts)
            first = 0
            axes: set[int] = set()
            for i, part in enumerate(parts):
                atoms = list(range(first, first + len(part)))
                first += len(part)
                if i in chosen:
                    axes |= set(atoms[-1:] if inner else atoms)
            frame.axes = frozenset(axes)
            try:
                frame.run(transfer, lambda item: positions[id(item)])
            except SplitError as cut:
                parts = finer(parts, cut)
                continue
            yield loaded, frame
            break


def said(frame, fact, x):
    """The tensor that a form describes, for this x."""
    wide = x.reshape(frame.atoms)
    axes = tuple(frame.axes)
    m, q = (np.mean(v, axis=axes, keepdims=True) if axes else v for v in (wide, wide * wide))
    terms = {"x": wide, "m": m, "1": 1.0, "q": q, "xx": wide * wide, "xm": wide * m, "mm": m * m}
    form = fact.form

    def moment(of):
        return q + of.mm * m * m + of.m * m + of.one

    with np.errstate(all="ignore"):
        if isinstance(form, Poly):
            values = sum((c * terms[t] for t, c in form.terms.items()), np.zeros((1,) * wide.ndim))
        elif isinstance(form, Power):
            values = form.factor * moment(form.moment) ** form.exponent
        else:
            assert isinstance(form, Normal)
            values = (form.x * wide + form.m * m + form.one) * moment(form.moment) ** -0.5 + form.delta
    return placed(
        frame,
        fact.view,
        np.asarray(values, np.float64).reshape((1,) * (wide.ndim - np.ndim(values)) + np.shape(values)),
    )


def placed(frame, view, values):
    """An array with one axis per atom in the shape of a view; None if it varies along an atom that the view has not."""
    atoms = real_atoms(view)
    if any(
        values.shape[i] > 1 and not np.allclose(values, values.take([0], i))
        for i in range(values.ndim)
        if i not in atoms
    ):
        return None
    for i in range(values.ndim):
        if i not in atoms:
            values = values.take([0], i)
    values = np.broadcast_to(values, [frame.atoms[i] if i in atoms else 1 for i in range(values.ndim)])
    order = [*atoms, *(i for i in range(values.ndim) if i not in atoms)]
    return values.transpose(order).reshape(sizes(view, frame.atoms))


def met(loaded, value, x):
    """The tensor itself, or None where it cannot be evaluated."""
    base = loaded.graph.values["x"]
    try:
        return Evaluator(Constants()).run([value], {base: x})[0]
    except Unknown:
        return None
