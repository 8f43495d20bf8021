"""What a fuzzer found: verification crashed or refused a fold that was right, and an output that is no file was replaced."""

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

import normfold
from normfold.destination import default_destination
from normfold.errors import OutputError
from tests.support import batch_norm, build, random

WEIGHTS = {"w": random(4, 3, 3, 3), "b0": random(4), **batch_norm(4), "one": np.ones(1, np.float32)}


def everything_folds(body, inputs="float[N,3,8,8] x", outputs="y", **more):
    result = normfold.optimize(build(body, inputs, outputs, {**WEIGHTS, **more}))
    assert result.report.dropped == ()
    assert result.report.verification.verdict == "PASS"
    return [node.op_type for node in result.model.graph.node]


def test_a_fold_in_dead_code_is_no_region_without_outputs():
    dead = "c = Conv(x, w, b0)  d = BatchNormalization(c, g, b, m, v)"
    body = f"{dead}  e = Conv(x, w, b0)  y = BatchNormalization(e, g, b, m, v)"
    assert everything_folds(body) == ["Conv", "Conv"]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("p = Mul(x, one)  c = Conv(p, w, b0)  y = BatchNormalization(c, g, b, m, v)  z = Relu(y)", ["Conv", "Relu"]),
        (
            "r = Relu(x)  p = Mul(r, one)  c = Conv(p, w, b0)  y = BatchNormalization(c, g, b, m, v)  z = Abs(r)",
            ["Relu", "Conv", "Abs"],
        ),
        (
            "r = Relu(x)  p = Mul(r, one)  q = Div(r, one)  c = Conv(p, w, b0)  y = BatchNormalization(c, g, b, m, v)"
            "  e = Conv(q, w, b0)  z = BatchNormalization(e, g, b, m, v)",
            ["Relu", "Conv", "Conv"],
        ),
        (
            "r = Conv(x, w, b0)  n = BatchNormalization(r, g, b, m, v)  p = Mul(n, one)  c = Conv(p, w4, b0)"
            "  y = BatchNormalization(c, g, b, m, v)  z = Abs(n)",
            ["Conv", "Conv", "Abs"],
        ),
        (
            # The identity stands between two nodes of one region: the Add that passes the scale on, and the Conv.
            "c = Conv(x, w, b0)  p = Mul(c, one)  r = Relu(p)  f = Conv(x, w, b0)  a = Add(r, f)"
            "  y = Mul(a, s)  z = Abs(x)",
            ["Conv", "Relu", "Conv", "Add", "Abs"],
        ),
    ],
    ids=["input", "shared", "two identities of one", "behind another fold", "inside"],
)
def test_an_identity_that_is_removed_in_front_does_not_cost_the_fold_behind_it(body, left):
    assert everything_folds(body, outputs="y, z", w4=random(4, 4, 1, 1), s=np.full((4, 1, 1), 2, np.float32)) == left


def test_an_identity_that_is_removed_outside_of_a_subgraph_does_not_cost_the_folds_inside():
    branch = "() => (float[N,4,6,6] o) { c = Conv(p, w, b0)  o = BatchNormalization(c, g, b, m, v) }"
    body = f"p = Mul(x, one)  y = If (f) <then_branch = t {branch}, else_branch = e {branch}>"
    assert everything_folds(body, "float[N,3,8,8] x, bool f", "float[N,4,6,6] y") == ["If"]


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in the file system")
def test_a_pipe_or_device_in_the_place_of_the_output_is_left_alone(tmp_path):
    pipe = tmp_path / "y.onnx"
    os.mkfifo(pipe)
    model = build("c = Conv(x, w, b0)  y = BatchNormalization(c, g, b, m, v)", init=WEIGHTS)
    with pytest.raises(OutputError) as caught:
        normfold.optimize(model, pipe)
    assert caught.value.code == "output.not_regular"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_source_without_a_name_has_no_destination_of_its_own():
    assert default_destination(Path()) == Path()


@pytest.mark.parametrize("first", ["Gather(s, zero)", "Slice(s, zero, end)"])
def test_a_region_computes_the_shapes_that_it_needs(first):
    """A shape that flows in would be made up, and no Reshape fits one: then every fold past it was dropped."""
    body = (
        f"c = MatMul(x, wide)  a = Add(c, bias)  s = Shape(x)  n = {first}  n2 = Mul(n, one64)  t = Concat<axis=0>(n2, rest)"
        "  r = Reshape(a, t)  p = Transpose<perm=[0, 2, 1, 3]>(r)  y = Mul(p, half)"
    )
    sizes = {"zero": np.int64([0]), "one64": np.int64([1]), "rest": np.int64([5, 2, 4]), "end": np.int64([1])}
    model = build(
        body,
        "float[N,5,3] x",
        "float[N,2,5,4] y",
        {"wide": random(3, 8), "bias": random(8), "half": np.float32(0.5), **sizes},
    )
    used = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in used]:
        model.graph.initializer.remove(tensor)
    result = normfold.optimize(model, config=normfold.Config(verify="region"))
    assert result.report.dropped == ()
    assert result.report.verification.verdict == "PASS"
    assert [node.op_type for node in result.model.graph.node].count("Mul") == 1
