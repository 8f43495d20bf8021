"""Guards that every row of the tables has: an attribute that nobody knows, a factor out of range, a large shared weight.

One model that folds for each operator, spoilt in one way after the other.
"""

# ruff: noqa: E501 - tables, one row a line
import numpy as np
import pytest
from onnx import helper

from normfold.affine import change
from normfold.affine.absorbers import ABSORBERS
from normfold.affine.crossings import CROSSINGS
from tests.affine import test_affine_crossings as backward
from tests.affine import test_affine_forward as forward
from tests.support import build, plan_of, positive, random

# The site is the node that makes y (backward) or a (forward).
DIRECTIONS = {
    "backward": (backward.ROWS, backward.model_of, "y"),
    "forward": (forward.CROSSINGS, forward.model_of, "a"),
}
# One function serves both directions and is tested backward.
ONLY_BACKWARD = {"Cast", "GlobalLpPool", "GridSample", "MaxUnpool", "ReduceL1", "ReduceMin", "RoiAlign", "Upsample"}
CASES = [(way, op) for way in DIRECTIONS for op in CROSSINGS if way == "backward" or op not in ONLY_BACKWARD]


def keys(model, site):
    """The reasons of a site, "" where it folds."""
    return [d.code.split(".")[1] if "." in d.code else "" for d in plan_of(model).decisions if d.node == site]


def folding(direction, op):
    """A model whose site folds past an operator, and that operator's node."""
    rows, model_of, site = DIRECTIONS[direction]
    for row in rows.values():
        if "Shape(x)" in row.text:
            continue  # the operators compute a shape, not data
        for kind in ("positive", "mixed", "shift"):
            if getattr(row, kind):
                continue
            model = model_of(row, kind)
            for node in model.graph.node:
                if node.op_type == op and site not in node.output:
                    return model, node, site
    raise AssertionError(f"no row has {op}")


@pytest.mark.parametrize(("direction", "op"), CASES)
def test_an_attribute_that_a_crossing_does_not_know(direction, op):
    model, node, site = folding(direction, op)
    assert keys(model, site) == [""]
    node.attribute.append(helper.make_attribute("mystery", 1))
    assert keys(model, site) == ["unknown-attribute"]


BEHIND = "y = Mul(d, k)"
# operator -> nodes, inputs, constants, shape of k behind and in front (None where that side takes nothing)
ROWS = {
    "Conv": ("d = Conv(a, w, b)", "float[2,3,6,6] x", {"w": random(4, 3, 3, 3), "b": random(4)}, (4, 1, 1), (3, 1, 1)),
    "ConvTranspose": ("d = ConvTranspose(a, w, b)", "float[2,3,6,6] x", {"w": random(3, 4, 3, 3), "b": random(4)}, (4, 1, 1), (3, 1, 1)),
    "DeformConv": ("d = DeformConv(a, w, o)", "float[2,3,4,4] x", {"w": random(4, 3, 2, 2), "o": np.zeros((2, 8, 3, 3), np.float32)}, (4, 1, 1), (3, 1, 1)),
    "Gemm": ("d = Gemm(a, w, b)", "float[2,3] x", {"w": random(3, 4), "b": random(4)}, (4,), (3,)),
    "MatMul": ("d = MatMul(a, w)", "float[2,3] x", {"w": random(3, 4)}, (4,), (3,)),
    "Gather": ("d = Gather(w, x)", "int64[2,3] x", {"w": random(5, 4)}, (4,), None),
    "BatchNormalization": ("d = BatchNormalization(a, w, b, m, v)", "float[2,3,4,4] x", {"w": random(3), "b": random(3), "m": random(3), "v": positive(3)}, (3, 1, 1), (3, 1, 1)),
    "InstanceNormalization": ("d = InstanceNormalization(a, w, b)", "float[2,3,4,4] x", {"w": random(3), "b": random(3)}, (3, 1, 1), (1,)),
    "GroupNormalization": ("d = GroupNormalization<num_groups=2>(a, w, b)", "float[2,4,4,4] x", {"w": random(4), "b": random(4)}, (4, 1, 1), (1,)),
    "LayerNormalization": ("d = LayerNormalization(a, w, b)", "float[2,3,4] x", {"w": random(4), "b": random(4)}, (4,), (1,)),
    "RMSNormalization": ("d = RMSNormalization(a, w)", "float[2,3,4] x", {"w": random(4)}, (4,), (1,)),
    "LSTM": ("d = LSTM<hidden_size=2>(a, w, r)", "float[5,2,3] x", {"w": random(1, 8, 3), "r": random(1, 8, 2)}, None, (3,)),
    "GRU": ("d = GRU<hidden_size=2>(a, w, r)", "float[5,2,3] x", {"w": random(1, 6, 3), "r": random(1, 6, 2)}, None, (3,)),
    "RNN": ("d = RNN<hidden_size=2>(a, w, r)", "float[5,2,3] x", {"w": random(1, 2, 3), "r": random(1, 2, 2)}, None, (3,)),
}  # fmt: skip
SIDES = [(op, side) for op, row in ROWS.items() for side in ("behind", "front") if row[3 if side == "behind" else 4]]
OPSET = {"DeformConv": 19, "GroupNormalization": 21, "RMSNormalization": 23}


def absorber(op, side, *, half=False, values=None, more=""):
    """`x -> operator -> Mul -> y`, or `x -> Mul -> operator -> y`; the site is y or a."""
    text, inputs, init, behind, front = ROWS[op]
    shape = behind if side == "behind" else front
    k = np.full(shape, 1.5, np.float32) if values is None else np.full(shape, values, np.float32)
    changed = {"behind": f"{text.replace('(a', '(x')} {BEHIND}", "front": f"a = Mul(x, k) {text.replace('d =', 'y =')}"}
    text = changed[side]
    init = {**init, "k": k}
    if half:
        init = {name: array.astype(np.float16) for name, array in init.items()}
        inputs = inputs.replace("float", "float16")
    kind = "float16" if half else "float"
    shape = {"GroupNormalization": "[2,4,4,4]"}.get(op)
    outputs = f"{kind}{shape} y" if shape else "y, z" if more else "y"
    if more and shape:
        outputs += f", {kind}[4] z"
    return build(
        f"{text} {more}", inputs, outputs, init, opset=OPSET.get(op, 17), ir=10
    ), "y" if side == "behind" else "a"


def test_every_absorber_has_a_row():
    assert set(ROWS) == set(ABSORBERS)
    assert {op for op, side in SIDES if side == "behind"} == {op for op, row in ABSORBERS.items() if row.accept}
    assert {op for op, side in SIDES if side == "front"} == {op for op, row in ABSORBERS.items() if row.accept_forward}


@pytest.mark.parametrize(("op", "side"), SIDES)
def test_an_attribute_that_an_absorber_does_not_know(op, side):
    model, site = absorber(op, side)
    assert keys(model, site) == [""]
    next(node for node in model.graph.node if node.op_type == op).attribute.append(helper.make_attribute("mystery", 1))
    assert keys(model, site) == ["unknown-attribute"]


# In front of a norm a factor goes into epsilon and touches no weight.
RANGED = [(op, side) for op, side in SIDES if side == "behind" or ROWS[op][4] != (1,)]
# The parameters of these have one element per channel: there is nothing to be saved.
COPIED = [
    (op, side) for op, side in RANGED if op not in ("BatchNormalization", "InstanceNormalization", "GroupNormalization")
]
# Gather is tried as a crossing after it has declined as a table, which has the last word.
LAST_WORD = {"Gather": "no-absorber"}


@pytest.mark.parametrize(("op", "side"), RANGED)
def test_a_factor_that_is_too_large_for_the_type(op, side):
    model, site = absorber(op, side, half=True, values=2000.0)
    assert keys(model, site) == [LAST_WORD.get(op, "dtype-range")]
    wide, site = absorber(op, side, values=2000.0)
    assert keys(wide, site) == [""]


@pytest.mark.parametrize(("op", "side"), COPIED)
def test_a_large_weight_that_others_read(op, side, monkeypatch):
    monkeypatch.setattr(change, "LARGEST_COPY", 0)
    model, site = absorber(op, side, more="z = Relu(w) ")
    assert keys(model, site) == [LAST_WORD.get(op, "cost")]


F = random
VECTOR, IMAGE = "float[2,3] x", "float[2,3,6,6] x"
ILL_FORMED = {
    "Conv, a matrix": ("y = Conv(a, w)", IMAGE, {"w": F(4, 3)}, "front"),
    "Conv, of another rank": ("y = Conv(a, w)", IMAGE, {"w": F(4, 3, 3)}, "front"),
    "Conv, integers": ("d = Conv(x, w)", IMAGE, {"w": np.ones((4, 3, 3, 3), np.int32)}, "back"),
    "GroupNormalization, groups that do not divide": ("d = GroupNormalization<num_groups=3>(x, w, b)", "float[2,4,6,6] x", {"w": F(3), "b": F(3), "k": positive(4, 1, 1)}, "back"),
    "Conv, of a higher rank": ("d = Conv(x, w)", IMAGE, {"w": F(4, 3, 3, 3, 3)}, "back"),
    "Conv, no group": ("d = Conv<group=0>(x, w)", IMAGE, {"w": F(4, 3, 3, 3)}, "back"),
    "Conv, groups that do not divide": ("d = Conv<group=3>(x, w)", IMAGE, {"w": F(4, 1, 3, 3)}, "back"),
    "Conv, a bias of one": ("d = Conv(x, w, b)", IMAGE, {"w": F(4, 3, 3, 3), "b": F(1)}, "back"),
    "Conv, a bias of three": ("y = Conv(a, w, b)", IMAGE, {"w": F(4, 3, 3, 3), "b": F(3)}, "front"),
    "DeformConv, a bias of one": ("d = DeformConv(x, w, o, b)", "float[2,3,4,4] x", {"w": F(4, 3, 2, 2), "o": F(2, 8, 3, 3), "b": F(1)}, "back"),
    "Gemm, a cube": ("d = Gemm(x, w)", VECTOR, {"w": F(1, 3, 4)}, "back"),
    "Gemm, a cube in front": ("y = Gemm(a, w)", VECTOR, {"w": F(1, 3, 4)}, "front"),
    "Gemm, data of rank 3": ("y = Gemm(a, w)", "float[1,2,3] x", {"w": F(3, 4)}, "front"),
    "Gemm, C of three": ("d = Gemm(x, w, b)", VECTOR, {"w": F(3, 4), "b": F(3)}, "back"),
    "Gemm, C of rank 3": ("d = Gemm(x, w, b)", VECTOR, {"w": F(3, 4), "b": F(1, 1, 4)}, "back"),
    "MatMul, a vector": ("d = MatMul(x, w)", VECTOR, {"w": F(3)}, "back"),
    "MatMul, a vector in front": ("y = MatMul(a, w)", VECTOR, {"w": F(3)}, "front"),
    "LayerNormalization, a scale of three": ("d = LayerNormalization(x, w, b)", "float[2,3,4] x", {"w": F(3), "b": F(4)}, "back"),
    "LayerNormalization, a bias of three": ("d = LayerNormalization(x, w, b)", "float[2,3,4] x", {"w": F(4), "b": F(3)}, "back"),
    "LayerNormalization, a scale of rank 4": ("d = LayerNormalization(x, w, b)", "float[2,3,4] x", {"w": F(1, 1, 1, 4), "b": F(4)}, "back"),
    "InstanceNormalization, a matrix": ("d = InstanceNormalization(x, w, b)", IMAGE, {"w": F(1, 3), "b": F(1, 3)}, "back"),
    "InstanceNormalization, a bias of one": ("d = InstanceNormalization(x, w, b)", IMAGE, {"w": F(3), "b": F(1)}, "back"),
    "GRU, a matrix": ("y = GRU<hidden_size=2>(a, w, r)", "float[5,2,3] x", {"w": F(6, 3), "r": F(1, 6, 2)}, "front"),
    "GRU, a bias of one gate": ("y = GRU<hidden_size=2>(a, w, r, b)", "float[5,2,3] x", {"w": F(1, 6, 3), "r": F(1, 6, 2), "b": F(1, 6)}, "front"),
    "GRU, data of rank 4": ("y = GRU<hidden_size=2>(a, w, r)", "float[1,5,2,3] x", {"w": F(1, 6, 3), "r": F(1, 6, 2)}, "front"),
}  # fmt: skip


# What the message must say where numpy would stumble over the same mistake.
SAYS = {
    "Conv, a matrix": "the weight has shape [4, 3]",
    "Conv, of another rank": "before a weight of rank 3",
    "GroupNormalization, groups that do not divide": "3 groups do not divide 4 channels",
    "Conv, no group": "group 0 does not divide",
    "MatMul, a vector in front": "the weight has shape [3]",
    "LayerNormalization, a scale of rank 4": "[1, 1, 1, 4]",
    "GRU, a matrix": "[6, 3]",
}


@pytest.mark.parametrize("name", ILL_FORMED)
def test_parameters_that_do_not_fit(name):
    """Whatever is wrong with them, nothing may be written."""
    text, inputs, init, side = ILL_FORMED[name]
    text = f"{text} {BEHIND}" if side == "back" else f"a = Mul(x, k) {text}"
    init = {"k": np.float32(1.5), **init}
    model = build(text, inputs, "float[A] y", init, opset=19, ir=9)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    site = "y" if side == "back" else "a"
    (decision,) = (d for d in plan_of(model).decisions if d.node == site)
    assert decision.code.endswith(".ill-formed")
    assert SAYS.get(name, "") in decision.message


def test_inputs_that_a_recurrent_weight_does_not_have():
    init = {"w": random(1, 6, 4), "r": random(1, 6, 2), "k": positive(3)}
    model = build("a = Mul(x, k) y = GRU<hidden_size=2>(a, w, r)", "float[5,2,3] x", "float[5,1,2,2] y", init)
    assert keys(model, "a") == ["not-per-channel"]
