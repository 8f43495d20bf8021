"""M04: statistics over the batch, written out."""

from __future__ import annotations

import numpy as np

from tests.statistics.build import found
from tests.support import build

BATCH_NORM = """
mu = ReduceMean<axes: ints = {axes}>({data})
d = Sub({data}, mu)
s = Mul(d, d)
var = ReduceMean<axes: ints = {axes}>(s)
ve = Add(var, eps)
sd = Sqrt(ve)
y = Div(d, sd)
"""
EPS = {"eps": np.float32(1e-5)}


def decomposed(axes: str, data: str = "x", dims: str = "N,4,8,8", before: str = "") -> list[str]:
    body = before + BATCH_NORM.format(axes=axes, data=data)
    model = build(body, f"float[{dims}] x", f"float[{dims}] y", dict(EPS), opset=13)
    return [finding.message for finding in found(model, "M04")]


def test_a_batch_norm_written_out_is_one_warning() -> None:
    (message,) = decomposed("[0,2,3]")
    assert "Sub" in message or "subtracted" in message


def test_negative_axes_and_a_variance_alone() -> None:
    assert decomposed("[-4,-2,-1]")
    body = "s = Mul(x, x)\nvar = ReduceMean<axes: ints = [0]>(s)\nve = Add(var, eps)\nsd = Sqrt(ve)\ny = Div(x, sd)"
    model = build(body, "float[N,4] x", "float[N,4] y", dict(EPS), opset=13)
    assert len(found(model, "M04")) == 1


def test_a_layer_norm_is_none() -> None:
    assert not decomposed("[-1]")
    assert not decomposed("[1,2,3]")


def test_a_vector_has_no_batch() -> None:
    assert not decomposed("[0]", dims="N")


def test_rows_of_a_leading_one_are_no_batch() -> None:
    body = "r = Reshape(x, shape)\n" + BATCH_NORM.format(axes="[0,2,3]", data="r").replace("y = Div", "z = Div")
    init = {**EPS, "shape": np.array([1, 12, 4, 1]), "back": np.array([12, 4])}
    model = build(body + "y = Reshape(z, back)", "float[12,4] x", "float[12,4] y", init, opset=13)
    assert not found(model, "M04")


def test_a_mean_over_the_batch_that_is_an_output_normalises_nothing() -> None:
    model = build("y = ReduceMean<axes: ints = [0]>(x)", "float[N,4] x", "float[1,4] y", opset=13)
    assert not found(model, "M04")


def test_a_weight_may_be_centred() -> None:
    body = "mu = ReduceMean<axes: ints = [0]>(w)\nd = Sub(w, mu)\ny = MatMul(x, d)"
    model = build(body, "float[N,4] x", "float[N,4] y", {"w": np.eye(4, dtype=np.float32)}, opset=13)
    assert not found(model, "M04")
