"""Random windows, groups, signs and types: whatever merges computes the same, and a second run finds nothing to do.

Branches are drawn so that their sums are valid, not so that they merge: begin and end of the padding are free as long as
their sum keeps the sizes equal, so that offsets may be fractions and dilations may differ.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from normfold.model.tensors import RangeRefusal
from normfold.surgery.codes import meaning
from tests.support import batch_norm, build, check, optimise, random

KINDS = {"float": np.float32, "float16": np.float16, "double": np.float64}
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


class Text:
    """A model under construction."""

    def __init__(self, draw, rank, channels):
        self.draw, self.rank, self.channels = draw, rank, channels
        self.kind = draw(st.sampled_from(["float", "float", "float16", "double"]))
        self.lines, self.init = [], {}

    def weight(self, *shape):
        name = f"k{len(self.init)}"
        self.init[name] = random(*shape, seed=len(self.init), dtype=KINDS[self.kind]) / KINDS[self.kind](2)
        return name

    def add(self, text):
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def norm(self, data, channels):
        prefix = f"n{len(self.lines)}"
        self.init |= batch_norm(channels, seed=len(self.lines), prefix=prefix, dtype=KINDS[self.kind])
        return self.add(f"BatchNormalization({data}, {prefix}g, {prefix}b, {prefix}m, {prefix}v)")

    def model(self, last, opset):
        body = " ".join([*self.lines, f"y = Identity({last})"])
        sizes = ",".join("12" for _ in range(self.rank))
        return build(body, f"{self.kind}[N,{self.channels},{sizes}] x", "y", self.init, opset=opset)


def verdict(model, aggressive):
    """Check it; a weight that leaves its range is a legal end as well."""
    try:
        result = check(model, aggressive=aggressive)
    except RangeRefusal:
        event("range")
        return
    for decision in result.merges:
        assert meaning(decision.code), decision
        event(decision.code)


def shape(values):
    return "[" + ",".join(str(int(v)) for v in values) + "]"


def one_window(text, delta, strides, dilations, largest=3):
    """Attributes of a window that changes sizes by `delta` (before strides), and its kernel."""
    draw, axes = text.draw, range(text.rank)
    kernel = [draw(st.integers(1, largest)) for _ in axes]
    kernel = [k if delta[i] + dilations[i] * (k - 1) >= 0 else 1 - delta[i] for i, k in enumerate(kernel)]
    totals = [delta[i] + dilations[i] * (kernel[i] - 1) for i in axes]
    begins = [draw(st.sampled_from([t // 2, t // 2, t - t // 2, 0, t])) for t in totals]
    pads = [*begins, *(t - b for t, b in zip(totals, begins, strict=True))]
    return f"strides={shape(strides)},pads={shape(pads)}", kernel


@st.composite
def parallel(draw):
    rank, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2]))
    into = group * draw(st.integers(1, 2))
    text = Text(draw, rank, into)
    out = into if draw(st.booleans()) else group * draw(st.integers(1, 2))
    strides = [draw(st.sampled_from([1, 1, 2])) for _ in range(rank)]
    delta = [draw(st.sampled_from([0, 0, 0, -1, -2])) for _ in range(rank)]
    common = [draw(st.integers(1, 2)) for _ in range(rank)]
    total = None
    for _ in range(draw(st.integers(2, 4))):
        kinds = ["conv", "conv"]
        if into == out:
            kinds.append("pool")
            kinds += ["same", "stranger"] * (set(strides) == {1} and not any(delta))
        kind = draw(st.sampled_from(kinds))
        value = branch(text, kind, into, out, group, delta, strides, common)
        if draw(st.integers(0, 2)) == 0:
            value = text.norm(value, out)
        if total is None:
            total = value
        else:
            operator = draw(st.sampled_from(["Add", "Add", "Sub", "Sum"]))
            first, second = draw(st.permutations([total, value]))
            total = text.add(f"{operator}({first}, {second})")
    if draw(st.booleans()):
        total = text.norm(total, out)
    return text.model(total, draw(st.sampled_from([15, 19]))), draw(st.booleans())


def branch(text, kind, into, out, group, delta, strides, common):
    draw = text.draw
    if kind == "same":
        return "x"
    if kind == "stranger":
        return text.add("Relu(x)")
    if kind == "pool":
        window, kernel = one_window(text, delta, strides, [1] * text.rank)
        # onnxruntime wants less padding than kernel
        sides = [int(p) for p in window.split("pads=[")[1].rstrip("]").split(",")]
        if all(side < kernel[i % text.rank] for i, side in enumerate(sides)):
            counted = draw(st.sampled_from([1, 1, 0]))
            return text.add(f"AveragePool<kernel_shape={shape(kernel)},count_include_pad={counted},{window}>(x)")
    dilations = common if draw(st.integers(0, 3)) else [draw(st.integers(1, 2)) for _ in common]
    window, kernel = one_window(text, delta, strides, dilations)
    operands = ["x", text.weight(out, into // group, *kernel)]
    if draw(st.booleans()):
        operands.append(text.weight(out))
    attributes = f"{window},dilations={shape(dilations)},group={group}"
    return text.add(f"Conv<{attributes}>({', '.join(operands)})")


@QUICK
@given(parallel())
def test_parallel_branches(case):
    verdict(*case)


@st.composite
def in_a_row(draw):
    rank, into = draw(st.integers(1, 2)), draw(st.sampled_from([2, 4]))
    text = Text(draw, rank, into)
    value, channels = "x", into
    for _ in range(draw(st.integers(2, 3))):
        out = draw(st.sampled_from([2, 4]))
        group = draw(st.sampled_from([1, 1, 2]))
        window, kernel = one_window(
            text,
            [draw(st.sampled_from([0, 0, -1])) for _ in range(rank)],
            [draw(st.sampled_from([1, 1, 1, 2])) for _ in range(rank)],
            [1] * rank,
            largest=draw(st.sampled_from([1, 1, 3])),
        )
        operands = [value, text.weight(out, channels // group, *kernel)]
        if draw(st.booleans()):
            operands.append(text.weight(out))
        value, channels = text.add(f"Conv<{window},group={group}>({', '.join(operands)})"), out
        if draw(st.integers(0, 2)) == 0:
            value = text.norm(value, out)
    return text.model(value, 17), draw(st.booleans())


@QUICK
@given(in_a_row())
def test_convolutions_in_a_row(case):
    verdict(*case)


@st.composite
def matrices(draw):
    rank = draw(st.integers(1, 2))  # of what lies between batch and features
    text = Text(draw, rank, 3)
    flat = rank == 1 and draw(st.booleans())
    values = [("x", 6)]
    for _ in range(draw(st.integers(2, 5))):
        value, size = draw(st.sampled_from(values[-2:]))
        out = draw(st.sampled_from([6, 6, 3]))
        kind = draw(st.sampled_from(["MatMul", "Gemm", "Add", "Bias"] if flat else ["MatMul", "MatMul", "Add", "Bias"]))
        same = [other for other, other_size in values if other_size == size and other != value]
        if kind == "Add" and same:
            name = text.add(f"{draw(st.sampled_from(['Add', 'Sub']))}({value}, {draw(st.sampled_from(same))})")
            out = size
        elif kind == "Bias":
            name, out = text.add(f"Add({value}, {text.weight(size)})"), size
        elif kind == "Gemm":
            turned = draw(st.booleans())
            weight = text.weight(*((out, size) if turned else (size, out)))
            more = f", {text.weight(out)}" if draw(st.booleans()) else ""
            name = text.add(f"Gemm<transB={int(turned)},alpha=0.75,beta=-1.5>({value}, {weight}{more})")
        else:
            name = text.add(f"MatMul({value}, {text.weight(size, out)})")
        values.append((name, out))
    dims = "N,6" if flat else f"N,3{',2' * (rank - 1)},6"
    model = build(
        " ".join([*text.lines, f"y = Identity({values[-1][0]})"]), f"{text.kind}[{dims}] x", "y", text.init, opset=17
    )
    return model, draw(st.booleans())


@QUICK
@given(matrices())
def test_matrices(case):
    verdict(*case)


@pytest.mark.parametrize("strategy", [parallel, in_a_row, matrices])
def test_the_examples_are_worth_their_time(strategy):
    """A good part of them merges, and a good part does not."""
    codes = []

    @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(strategy())
    def run(case):
        model, aggressive = case
        try:
            _, plan = optimise(model, aggressive=aggressive)
        except RangeRefusal:
            return
        codes.extend(d.code for d in plan.decisions if d.rule in ("NF103", "NF104"))

    run()
    merged = sum("." not in code for code in codes)
    assert merged >= 10
    assert len(codes) - merged >= 2
