"""Any shape and any attributes: before and after compute the same bits."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from tests.support import build
from tests.surgery.raising import same, values
from tests.surgery.test_versions_steps import REDUCTIONS

FEW = settings(max_examples=40)
Shape = tuple[int, ...]

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 99)
until = st.sampled_from([13, 16, 18, 20, 21, 22])


def model_of(text: str, shape: Shape, opset: int, known: bool) -> ModelProto:
    """One operator on `x`; where `known` is not set, no dimension is declared."""
    dims = [str(size) if known else f"D{axis}" for axis, size in enumerate(shape)]
    return build(f"y = {text}", f"float[{','.join(dims)}] x", opset=opset)


def holds(text: str, shape: Shape, opset: int, wanted: int, seed: int, *, known: bool = True) -> None:
    same(model_of(text, shape, opset, known), wanted, {"x": values(*shape, seed=seed)})


@st.composite
def axes_of(draw: st.DrawFn, rank: int, *, signed: bool) -> list[int]:
    """Different axes in any order."""
    count = draw(st.integers(1, rank))
    axes = draw(st.permutations(range(rank)))[:count]
    return [axis - rank if signed and draw(st.booleans()) else axis for axis in axes]


@FEW
@given(st.data(), shapes, st.sampled_from(REDUCTIONS), until, seeds, st.booleans())
def test_reductions(data: st.DataObject, shape: Shape, op: str, wanted: int, seed: int, known: bool) -> None:
    opset = data.draw(st.sampled_from([7, 9, 11, 12]))
    parts = [f"keepdims={data.draw(st.integers(0, 1))}"]
    if data.draw(st.booleans()):
        parts.append(f"axes={sorted(data.draw(axes_of(len(shape), signed=opset >= 11)))}")
    text = f"{op}<{', '.join(parts)}>(x)"
    if op == "ReduceLogSum":
        text = f"Abs(x) y = {text.replace('(x)', '(p)')}"
        dims = ",".join(map(str, shape))
        model = build("p = " + text, f"float[{dims}] x", opset=opset)
        same(model, wanted, {"x": values(*shape, seed=seed)})
    else:
        holds(text, shape, opset, wanted, seed, known=known)


@FEW
@given(st.data(), shapes, until, seeds)
def test_squeeze_undoes_unsqueeze(data: st.DataObject, shape: Shape, wanted: int, seed: int) -> None:
    opset = data.draw(st.sampled_from([7, 11, 12]))
    rank = len(shape) + data.draw(st.integers(1, 2))
    axes = sorted(data.draw(st.permutations(range(rank)))[: rank - len(shape)])
    signed = [axis - rank if opset >= 11 and data.draw(st.booleans()) else axis for axis in axes]
    dims = ",".join(map(str, shape))
    body = f"u = Unsqueeze<axes={signed}>(x) y = Squeeze<axes={signed}>(u)"
    model = build(body, f"float[{dims}] x", f"float[{dims}] y", opset=opset)
    same(model, wanted, {"x": values(*shape, seed=seed)})


@FEW
@given(st.data(), st.lists(st.integers(1, 3), min_size=2, max_size=4), until, seeds, st.integers(0, 2))
def test_split(data: st.DataObject, sizes: list[int], wanted: int, seed: int, axis: int) -> None:
    equal = data.draw(st.booleans())
    sizes = [sizes[0]] * len(sizes) if equal else sizes
    shape = [2, 3, 2]
    shape[axis] = sum(sizes)
    names = ", ".join(f"y{index}" for index in range(len(sizes)))
    text = f"axis={axis}" + ("" if equal else f", split={sizes}")
    dims = ",".join(map(str, shape))
    model = build(
        f"{names} = Split<{text}>(x)", f"float[{dims}] x", names, opset=data.draw(st.sampled_from([7, 11, 12]))
    )
    same(model, wanted, {"x": values(*shape, seed=seed)})


@FEW
@given(st.data(), shapes, st.sampled_from(["Softmax", "LogSoftmax", "Hardmax"]), until, seeds, st.booleans())
def test_softmax(data: st.DataObject, shape: Shape, op: str, wanted: int, seed: int, known: bool) -> None:
    opset = data.draw(st.sampled_from([7, 9, 11, 12]))
    axis = data.draw(st.integers(-len(shape) if opset >= 11 else 0, len(shape) - 1))
    holds(f"{op}<axis={axis}>(x)", shape, opset, wanted, seed, known=known)


scales = st.lists(st.sampled_from([1.0, 1.3, 2.0, 2.5, 3.0]), min_size=2, max_size=2)


@FEW
@given(scales, st.booleans(), st.sampled_from(["nearest", "linear"]), st.sampled_from([7, 9, 10]), until, seeds)
def test_resize(factors: list[float], inverse: bool, mode: str, opset: int, wanted: int, seed: int) -> None:
    shape = (1, 2, 6, 7)
    assume(opset == 10 or not inverse)
    factors = [1 / factor if inverse else factor for factor in factors]
    every = np.array([1, 1, *factors], np.float32)
    text = f'mode="{mode}"'
    if opset == 7:
        listed = ", ".join(f"{float(scale):.9f}" for scale in every)
        holds(f"Upsample<{text}, scales=[{listed}]>(x)", shape, 7, wanted, seed)
        return
    op = "Upsample" if opset == 9 else "Resize"
    model = build(f"y = {op}<{text}>(x, s)", "float[1,2,6,7] x", init={"s": every}, opset=opset)
    same(model, wanted, {"x": values(*shape, seed=seed)})


@FEW
@given(st.data(), st.sampled_from(["constant", "reflect", "edge"]), until, seeds)
def test_pad(data: st.DataObject, mode: str, wanted: int, seed: int) -> None:
    shape = (2, 3, 4)
    low = -1 if mode == "constant" else 0
    pads = data.draw(st.lists(st.integers(low, 1), min_size=6, max_size=6))
    value = data.draw(st.floats(-3, 3, width=32))
    text = f'mode="{mode}", pads={pads}' + (f", value={value:.9f}" if data.draw(st.booleans()) else "")
    assume(all(size + a + b > 0 for size, a, b in zip(shape, pads[:3], pads[3:], strict=True)))
    holds(f"Pad<{text}>(x)", shape, data.draw(st.sampled_from([7, 9, 10])), wanted, seed)


@FEW
@given(st.data(), shapes, until, seeds)
def test_clip(data: st.DataObject, shape: Shape, wanted: int, seed: int) -> None:
    bounds = sorted(data.draw(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2)))
    names = data.draw(st.sampled_from([(), ("min",), ("max",), ("min", "max")]))
    parts = [f"{name}={bounds[name == 'max']:.9f}" for name in names]
    text = f"Clip<{', '.join(parts)}>(x)" if parts else "Clip(x)"
    model = model_of(text, shape, data.draw(st.sampled_from([7, 9, 10])), known=True)
    data_in = values(*shape, seed=seed)
    data_in.flat[0] = data.draw(st.sampled_from([np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38]))
    same(model, wanted, {"x": data_in})


@FEW
@given(st.data(), shapes, until, seeds)
def test_dropout(data: st.DataObject, shape: Shape, wanted: int, seed: int) -> None:
    ratio = data.draw(st.sampled_from(["", "<ratio=0.0>", "<ratio=0.3>"]))
    opset = data.draw(st.sampled_from([7, 10, 11]))
    mask = data.draw(st.booleans())
    dims = ",".join(map(str, shape))
    outputs = "y, m" if mask else "y"
    model = build(f"{outputs} = Dropout{ratio}(x)", f"float[{dims}] x", f"float[{dims}] y", opset=opset)
    same(model, wanted, {"x": values(*shape, seed=seed)})
