"""Random models full of norms: every part of a spelling is drawn by itself, and now and then a wrong one."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from tests.fuzz.generator import Draw, Maker, Rejected, Scope, random_model, usual_tables

# Where nothing varies, a smaller one would blow every rounding up.
_EPSILON = 0.25


def random_norms(seed: int) -> ModelProto | None:
    """The model of a seed; None if it has none that onnxruntime takes as a whole."""
    return random_model(seed, [*[NORMS] * 16, *usual_tables()])


class _Steps:
    """Nodes that read each other; every result has a name."""

    def __init__(self, maker: Maker, scope: Scope) -> None:
        self.m, self.s = maker, scope

    def __call__(self, op: str, *inputs: str, **attributes: object) -> str:
        operands = list(inputs)
        if op in ("Add", "Mul") and self.m.chance(0.4):
            operands.reverse()
        name = self.m.name()
        self.m.emit(self.s, op, operands, [name], **attributes)
        return name

    def const(self, values: object) -> str:
        array = np.asarray(values, self.m.dtype)
        return self.m.constant(self.s, array.reshape(self.m.pick((), (), (1,))) if array.size == 1 else array)

    def reduce(self, op: str, value: str, axes: list[int]) -> str:
        m = self.m
        rank = self.m.known[value].ndim
        signed = [axis - rank if m.chance(0.4) else axis for axis in axes]
        keep = m.pick(None, None, 1, 0)
        if m.opset >= (13 if op == "ReduceSum" else 18):
            out = self(op, value, m.constant(self.s, np.asarray(signed, np.int64)), keepdims=keep)
        else:
            out = self(op, value, axes=signed, keepdims=keep)
        return self.unsqueezed(out, axes) if keep == 0 and m.chance(0.9) else out

    def unsqueezed(self, value: str, axes: list[int]) -> str:
        if self.m.opset >= 13:
            return self("Unsqueeze", value, self.m.constant(self.s, np.asarray(axes, np.int64)))
        return self("Unsqueeze", value, axes=axes)

    def reshaped(self, value: str, shape: list[int]) -> str:
        return self("Reshape", value, self.m.constant(self.s, np.asarray(shape, np.int64)))


def _axes(m: Maker, rank: int) -> list[int]:
    first = int(m.rng.integers(rank))
    choices = [[rank - 1], list(range(first, rank)), [min(1, rank - 1)], list(range(min(2, rank - 1), rank))]
    some = sorted({int(m.rng.integers(rank)) for _ in range(m.pick(1, 2, 3))})
    return list(m.pick(*choices, choices[0], some))


def _parameter(m: Maker, shape: tuple[int, ...], axes: list[int]) -> np.ndarray:
    rank = len(shape)
    varying = m.pick(axes, axes, [1] if rank > 1 else axes, [rank - 1], list(range(rank)), [])
    wide = [extent if axis in varying else 1 for axis, extent in enumerate(shape)]
    while wide and wide[0] == 1 and m.chance(0.8):
        wide = wide[1:]
    return m.numbers(wide)


def spelled(m: Maker, s: Scope) -> None:
    """A norm in elementary operators."""
    x, a = m.data(s)
    if not a.ndim:
        raise Rejected
    _written(m, s, x, _axes(m, a.ndim))


def _written(m: Maker, s: Scope, x: str, axes: list[int]) -> str:
    step = _Steps(m, s)
    shape = m.known[x].shape
    centred = m.chance(0.65)
    mean = step.reduce("ReduceMean", x, axes) if centred else ""
    numerator = x if not centred else step("Sub", mean, x) if m.chance(0.1) else step("Sub", x, mean)
    total = step("Add", _variance(step, x, mean, numerator, axes, shape), step.const(_EPSILON))
    gamma, beta = step.const(_parameter(m, shape, axes)), step.const(_parameter(m, shape, axes))
    if centred and m.chance(0.2):
        return _beta_minus(step, x, mean, total, gamma, beta)
    result = _divided(step, numerator, total)
    for op, operand in m.pick((), (("Mul", gamma),), (("Mul", gamma), ("Add", beta)), (("Add", beta), ("Mul", gamma))):
        result = step(op, result, operand)
    return result


def _variance(step: _Steps, x: str, mean: str, numerator: str, axes: list[int], shape: tuple[int, ...]) -> str:
    m = step.m
    count = float(np.prod([shape[axis] for axis in axes]))
    kind = m.pick("square", "square", "square", "fast", "sum", "L2", "unbiased", "wrong")
    if kind == "fast" and mean:
        u = step.reduce("ReduceMean", step("Mul", x, x), axes)
        return step("Relu", step("Sub", u, step("Mul", mean, mean)))
    if kind == "wrong":  # the square of something else
        numerator = m.pick(x, numerator)
    square = step("Pow", numerator, step.const(2.0)) if m.chance(0.5) else step("Mul", numerator, numerator)
    if kind == "sum":
        return step("Div", step.reduce("ReduceSum", square, axes), step.const(count))
    if kind == "L2":
        length = step.reduce("ReduceL2", numerator, axes)
        return step("Div", step("Mul", length, length), step.const(count))
    if kind == "unbiased" and count > 1:
        return step("Div", step.reduce("ReduceSum", square, axes), step.const(count - 1))
    return step.reduce("ReduceMean", square, axes)


def _divided(step: _Steps, numerator: str, total: str) -> str:
    kind = step.m.pick("div", "div", "reciprocal", "one over", "power", "power of a half")
    if kind == "power":
        return step("Mul", numerator, step("Pow", total, step.const(-0.5)))
    if kind == "power of a half":
        return step("Div", numerator, step("Pow", total, step.const(0.5)))
    root = step("Sqrt", total)
    if kind == "div":
        return step("Div", numerator, root)
    return step(
        "Mul", numerator, step("Reciprocal", root) if kind == "reciprocal" else step("Div", step.const(1.0), root)
    )


def _beta_minus(step: _Steps, x: str, mean: str, total: str, gamma: str, beta: str) -> str:
    factor = step("Mul", step("Reciprocal", step("Sqrt", total)), gamma)
    if step.m.chance(0.5):
        return step("Add", step("Mul", x, factor), step("Sub", beta, step("Mul", mean, factor)))
    return step("Add", step("Add", step("Mul", x, factor), step("Mul", step("Neg", mean), factor)), beta)


def grouped(m: Maker, s: Scope) -> None:
    """A norm of groups of channels: Reshape, a norm, and back, with an affine behind."""
    x, a = m.data(s)
    if a.ndim < 3:
        raise Rejected
    step = _Steps(m, s)
    c = a.shape[1]
    groups = int(m.pick(*[g for g in range(1, c + 1) if c % g == 0]))
    wide = m.chance(0.4)
    r = step.reshaped(x, [0, groups, c // groups, *a.shape[2:]] if wide else [0, groups, -1])
    if wide:
        n = _written(m, s, r, list(range(2, a.ndim + 1)))
    else:
        ones = [step.const(m.numbers([groups]) * 0 + 1 if m.chance(0.7) else m.numbers([groups])) for _ in range(2)]
        n = step("InstanceNormalization", r, *ones, epsilon=_EPSILON)
    back = m.constant(s, np.asarray([m.pick(0, -1), *a.shape[1:]], np.int64))
    result = step("Reshape", n, step("Shape", x) if m.chance(0.5) else back)
    if m.chance(0.8):
        result = step("Mul", result, step.const(m.numbers([c, *[1] * (a.ndim - 2)])))
        step("Add", result, step.const(m.numbers([c, *[1] * (a.ndim - 2)])))


def between_transposes(m: Maker, s: Scope) -> None:
    """A norm of another layout."""
    x, a = m.data(s)
    step = _Steps(m, s)
    order = [int(i) for i in m.rng.permutation(a.ndim)]
    turned = step("Transpose", x, perm=order)
    made = _written(m, s, turned, _axes(m, a.ndim))
    if m.known[made].ndim == a.ndim and m.chance(0.8):
        step("Transpose", made, perm=[order.index(i) for i in range(a.ndim)])


NORMS: list[Draw] = [spelled, spelled, spelled, grouped, between_transposes]
