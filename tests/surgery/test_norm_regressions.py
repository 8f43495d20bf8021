"""Models that made a rule about norms go wrong once, one test each."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.targets.names import Target
from tests.norm.rewriting import codes, operators, stable
from tests.support import build, random


def unread(model):
    """Names of the initializers that nothing reads."""
    read = {name for node in model.graph.node for name in node.input} | {out.name for out in model.graph.output}
    return [tensor.name for tensor in model.graph.initializer if tensor.name not in read]


def test_constants_of_the_first_step_go_although_the_second_step_rebuilt_the_graph():
    # RMSNorm is decided about in the first step, GroupNorm in the second
    body = """
        z = Mul(x, x)
        q = ReduceMean <axes=[-1]> (z)
        r = Add(q, tiny)
        t = Sqrt(r)
        a = Div(x, t)
        b = Mul(a, scale)
        f = Reshape(b, split)
        m = ReduceMean <axes=[2]> (f)
        d = Sub(f, m)
        p = Mul(d, d)
        v = ReduceMean <axes=[2]> (p)
        w = Add(v, tiny)
        s = Sqrt(w)
        n = Div(d, s)
        g = Reshape(n, whole)
        h = Mul(g, gamma)
        y = Add(h, beta)
    """
    init = {
        "tiny": np.float32(1e-6), "scale": random(6), "split": np.int64([0, 2, -1]), "whole": np.int64([0, 4, 5, 6]),
        "gamma": random(4, 1, 1), "beta": random(4, 1, 1, seed=1),
    }  # fmt: skip
    model = build(body, "float[N,4,5,6] x", init=init)
    result, plan = stable(model, Target.ORT_CUDA)
    assert codes(plan) == ["NF202", "NF202"]
    assert unread(result) == []


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.ORT_CUDA])
def test_an_operator_whose_kernel_is_less_precise_than_its_type_stays_one_operator(target):
    body = "y = LayerNormalization <axis=-1> (x, scale)"
    model = build(body, "double[N,6] x", init={"scale": random(6, dtype=np.float64)})
    result, plan = stable(model, target)
    assert operators(result) == {"LayerNormalization": 1}
    assert not plan.norms


def rows_normalised(x: str) -> str:
    """`g`: x in the shape `split`, its last dimension normalised, and back in the shape of x; `p` is the square inside."""
    return f"""
        f = Reshape({x}, split)
        m = ReduceMean <axes=[2]> (f)
        d = Sub(f, m)
        p = Mul(d, d)
        v = ReduceMean <axes=[2]> (p)
        o = Add(v, tiny)
        s = Sqrt(o)
        n = Div(d, s)
        z = Shape({x})
        g = Reshape(n, z)
    """


def test_the_base_is_a_tensor_that_everything_is_computed_of():
    # the Reshape changes nothing and the deviation stays, so the norm of its result has as many nodes that go;
    # but the second shape is asked of what is in front of it
    body = f"c = Conv(x, w) {rows_normalised('c')} y = Mul(g, gamma)"
    init = {
        "w": random(4, 4, 1), "split": np.int64([0, 4, -1]), "tiny": np.float32(1e-6), "gamma": random(4, 1),
    }  # fmt: skip
    model = build(body, "float[2,4,6] x", "y, p", init=init)
    for target in Target:
        _, plan = stable(model, target)
        assert codes(plan) == ["NF202"], target


@pytest.mark.parametrize("target", [Target.PORTABLE, Target.TENSORRT])
def test_an_operator_that_the_standard_does_not_have_goes(target):
    model = build("y = SimplifiedLayerNormalization <axis=-1> (x, g)", "float[N,6] x", "float[N,6] y", {"g": random(6)})
    result, plan = stable(model, target)
    assert codes(plan) == ["NF202"]
    assert operators(result)["SimplifiedLayerNormalization"] == 0


def test_a_shape_that_only_the_norm_asks_for_keeps_no_tensor_channels_first():
    # as torch exports GroupNorm: the second Reshape asks for the shape of x, and is not needed any more
    norm = """
        c{i} = Conv({x}, w)
        f{i} = Reshape(c{i}, split)
        i{i} = InstanceNormalization <epsilon=1e-5> (f{i}, ones, zeros)
        z{i} = Shape(c{i})
        g{i} = Reshape(i{i}, z{i})
        h{i} = Mul(g{i}, gamma)
        n{i} = Add(h{i}, beta)
    """
    body = "".join(norm.format(i=i, x=f"n{i - 1}" if i else "x") for i in range(3)) + "y = Relu(n2)"
    init = {
        "w": random(8, 8, 1, 1), "split": np.int64([0, 2, -1]), "ones": np.ones(2, np.float32),
        "zeros": np.zeros(2, np.float32), "gamma": random(8, 1, 1), "beta": random(8, 1, 1, seed=1),
    }  # fmt: skip
    model = build(body, "float[N,8,9,9] x", init=init)
    result, plan = stable(model, Target.ORT_CUDA)
    assert codes(plan) == ["NF202"] * 3
    assert operators(result) == {"Transpose": 2, "Conv": 1, "NhwcConv": 2, "GroupNorm": 3, "Relu": 1}


def test_with_one_thread_float16_takes_the_affine_that_its_float32_core_would_take():
    # else a second run finds a float32 norm between the Casts and spells it anew
    body = f"{rows_normalised('x')} h = Mul(g, gamma) y = Add(h, beta)"
    init = {
        "split": np.int64([0, 2, -1]), "tiny": np.float16(1e-3),
        "gamma": random(8, 1, 1, dtype=np.float16), "beta": random(8, 1, 1, seed=1, dtype=np.float16),
    }  # fmt: skip
    result, _ = stable(build(body, "float16[N,8,H,W] x", init=init), Target.ORT_CPU, threads=1)
    assert operators(result)["BatchNormalization"] == 1


@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_on_the_cpu_an_addition_stays_an_addition(op, threads):
    # onnxruntime 1.31.1: SkipLayerNormalization takes up to three times as long as Add and LayerNormalization
    body = f"""
        a = MatMul(x, w)
        c = Add(a, bias)
        s = Add(c, r)
        y = {op} <axis=-1> (s, g)
        z = Relu(s)
    """
    model = build(body, "float[2,5,6] x, float[2,5,6] r", "float[2,5,6] y, float[2,5,6] z", {
        "w": random(6, 6), "bias": random(6), "g": random(6, seed=1),
    })  # fmt: skip
    result, plan = stable(model, Target.ORT_CPU, threads)
    assert operators(result) == operators(model)
    assert not plan.norms
