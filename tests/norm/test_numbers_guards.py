"""Sizes that are not known, and tensors that are not of one number: what looks like it, and just fails to be."""

# ruff: noqa: E501 - tables, one row a line
import numpy as np
import pytest
from onnx import TensorProto, helper

from normfold.norm import numbers
from normfold.norm.filled import filled
from normfold.norm.numbers import Extents
from tests.model.build import viewed
from tests.support import build

I = np.int64  # noqa: E741
INIT = {
    "c01": np.array([0, 1]), "c22": np.array([2, 2]), "c00": np.array([0, 0]),
    "a": np.array([12, 5]), "b": np.array([3, 5]), "c": np.array([5, 5]), "f": np.array([4.0, 9.0], np.float32), "i0": np.array(0), "i1": np.array([1]),
    "m": np.array([[2, 3], [4, 5]]), "many": np.arange(65), "flag": np.array([True]), "text": np.array(["no"]), "z": np.array(0), "two": np.array([2]),
    "one": np.float32(3), "ones": np.ones((1, 1, 1), np.float32), "pair": np.ones(2, np.float32), "s": np.array([2, 3]), "s0": np.array([2, 0]), "s1": np.array([6]), "sm": np.array([-1, 3]), "sz": np.array([0, 0, 0]), "s9": np.array([9]),
    "bf": helper.make_tensor("bf", TensorProto.BFLOAT16, [2], [1.0, 2.0]), "half": np.array([1, 2], np.float16),
}  # fmt: skip


def made(body, inputs="float[2,3] x", *, opset=17, spoil=None, change=None):
    """(extents, the value y) of a model that computes y."""
    words = body
    for sign in "(),<>=[]":
        words = words.replace(sign, " ")
    init = {name: array for name, array in INIT.items() if name in words.split()}
    model = build(body, inputs, "float[A] y", init, opset=opset)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    if spoil is not None:
        next(node for node in model.graph.node if node.output[0] == "y").attribute.append(
            helper.make_attribute(spoil, 1)
        )
    if change is not None:
        change(model)
    loaded, _, shapes = viewed(model)
    return Extents(shapes), loaded.graph.values["y"]


def numbers_of(body, inputs="float[2,3] x", **options):
    extents, value = made(body, inputs, **options)
    found = extents.numbers(value, lambda _: None)
    return None if found is None else found.tolist()


N = "n = Shape(x)"
KNOWN = {
    "Shape": ("y = Shape(x)", [2, 3]),
    "Size": ("y = Size(x)", 6),
    "Identity": (f"{N} y = Identity(n)", [2, 3]),
    "Cast": (f"{N} y = Cast<to=7>(n)", [2, 3]),
    "Unsqueeze": ("n = Size(x) y = Unsqueeze(n, i0)", [6]),
    "Squeeze": (f"{N} y = Squeeze(n)", [2, 3]),
    "Reshape": (f"{N} y = Reshape(n, two)", [2, 3]),
    "Concat": (f"{N} y = Concat<axis=0>(n, a)", [2, 3, 12, 5]),
    "Gather": (f"{N} y = Gather(n, i0)", 2),
    "Slice": (f"{N} y = Slice(n, i1, two)", [3]),
    "Add": (f"{N} y = Add(n, a)", [14, 8]),
    "Sub": (f"{N} y = Sub(n, a)", [-10, -2]),
    "Mul": (f"{N} y = Mul(n, a)", [24, 15]),
    "Div": (f"{N} q = Mul(n, a) y = Div(q, a)", [2, 3]),
    "ReduceProd": (f"{N} y = ReduceProd(n)", [6]),
    "Sqrt": (f"{N} q = Cast<to=1>(n) p = Mul(q, q) y = Sqrt(p)", [2.0, 3.0]),
    "Reciprocal": (f"{N} q = Cast<to=1>(n) p = Div(q, q) y = Reciprocal(p)", [1.0, 1.0]),
}  # fmt: skip


@pytest.mark.parametrize("op", numbers._RULES)
def test_an_attribute_that_nobody_knows(op):
    body, wanted = KNOWN[op]
    assert numbers_of(body) == wanted
    assert numbers_of(body, spoil="mystery") is None


UNKNOWN = {
    "too many": ("y = Identity(many)", "float[2,3] x"),
    "flags": ("y = Identity(flag)", "float[2,3] x"),
    "data": ("y = Identity(x)", "int64[2] x"),
    "of another domain": ("n = Shape(x) y = my.Identity(n)", "float[2,3] x"),
    "no rank": ("z1 = my.Make(x) y = Shape(z1)", "float[2,3] x"),
    "Cast to a narrow integer": (f"{N} y = Cast<to=3>(n)", "float[2,3] x"),
    "Cast of a float to an integer": (f"{N} q = Cast<to=1>(n) y = Cast<to=7>(q)", "float[2,3] x"),
    "Reshape without a shape": (f"{N} y = Reshape(n)", "float[2,3] x"),
    "Reshape to another number": (f"{N} y = Reshape(n, s1)", "float[2,3] x"),
    "Concat of matrices": (f"{N} p = Mul(n, m) y = Concat<axis=0>(p, p)", "float[2,3] x"),
    "Gather along another axis": (f"{N} p = Mul(n, m) y = Gather<axis=1>(p, i0)", "float[2,3] x"),
    "Gather from a matrix": (f"{N} p = Mul(n, m) y = Gather(p, i0)", "float[2,3] x"),
    "Gather outside": (f"{N} y = Gather(n, s9)", "float[2,3] x"),
    "Slice twice along one axis": (f"{N} y = Slice(n, c01, c22, c00)", "float[2,3] x"),
    "Slice of a matrix": (f"{N} p = Mul(n, m) y = Slice(p, i1, two)", "float[2,3] x"),
    "integers and floats": (f"{N} y = Add(n, f)", "float[2,3] x"),
    "a quotient that is rounded": (f"{N} y = Div(a, n)", "float[7,5] x"),
    "by zero": (f"{N} y = Div(n, z)", "float[2,3] x"),
    "ReduceProd of a matrix": (f"{N} p = Mul(n, m) y = ReduceProd(p)", "float[2,3] x"),
    "Sqrt of integers": (f"{N} y = Sqrt(n)", "float[4,9] x"),
    "one over integers": (f"{N} y = Reciprocal(n)", "float[4,9] x"),
    "an operand left out": (f"{N} y = Add(n, )", "float[2,3] x"),
    "an input that is not there": (f"{N} y = Concat<axis=0>(n, x)", "int64[2] x"),
}  # fmt: skip


def test_an_operand_that_is_left_out_on_purpose():
    assert numbers_of(f"{N} y = Slice(n, i1, two, , i1)") == [3]


@pytest.mark.parametrize("name", UNKNOWN)
def test_sizes_that_are_not_known(name):
    assert numbers_of(*UNKNOWN[name]) is None


def test_a_chain_that_is_too_long():
    def chain(steps):
        links = [f"{'y' if i == steps else f'n{i}'} = Identity(n{i - 1})" for i in range(1, steps + 1)]
        return " ".join(["n0 = Shape(x)", *links])

    assert numbers_of(chain(numbers._DEPTH)) == [2, 3]
    assert numbers_of(chain(numbers._DEPTH + 1)) is None


def test_floats_are_numbers_of_every_width():
    assert numbers_of("y = Identity(half)") == [1.0, 2.0]
    assert numbers_of("y = Identity(bf)") == [1.0, 2.0]
    assert numbers_of("y = Identity(f)") == [4.0, 9.0]


# --- tensors of one number ------------------------------------------------------------------------------------------


def fill_of(body, inputs="float[2,3] x", **options):
    """(the number, the shape) of y, None if it is not of one number."""
    extents, value = made(body, inputs, **options)
    found = filled(extents, value, lambda _: None)
    return None if found is None else (float(found.flat[0]), found.shape)


ONES = "ones_ = ConstantOfShape<value = float[1] {1.0}>(n)"
FILLED = {
    "ConstantOfShape": (f"{N} y = ConstantOfShape<value = float[1] {{2.0}}>(n)", (2.0, (2, 3))),
    "ConstantOfShape of zeros": (f"{N} y = ConstantOfShape(n)", (0.0, (2, 3))),
    "Expand": (f"{N} y = Expand(one, n)", (3.0, (2, 3))),
    "Identity": (f"{N} {ONES} y = Identity(ones_)", (1.0, (2, 3))),
    "Cast": (f"{N} {ONES} y = Cast<to=10>(ones_)", (1.0, (2, 3))),
    "Reshape": (f"{N} {ONES} y = Reshape(ones_, s1)", (1.0, (6,))),
    "Reshape by -1": (f"{N} {ONES} y = Reshape(ones_, sm)", (1.0, (2, 3))),
    "Reshape by 0": (f"{N} {ONES} q = Sub(n, n) y = Reshape(ones_, q)", (1.0, (2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", FILLED)
def test_tensors_of_one_number(name):
    body, wanted = FILLED[name]
    assert fill_of(body) == wanted
    assert fill_of(body, spoil="mystery") is None


NOT_FILLED = {
    "of another domain": f"{N} {ONES} y = my.Identity(ones_)",
    "an operator with a result of its own": f"{N} {ONES} y = Neg(ones_)",
    "Cast to integers": f"{N} {ONES} y = Cast<to=7>(ones_)",
    "of flags": f"{N} y = ConstantOfShape<value = bool[1] {{1}}>(n)",
    "of two numbers": f"{N} y = ConstantOfShape<value = float[2] {{1.0, 2.0}}>(n)",
    "of no shape": "k = Cast<to=7>(x) y = ConstantOfShape(k)",
    "of a shape of floats": f"{N} q = Cast<to=1>(n) y = ConstantOfShape(q)",
    "without elements": f"{N} k = Sub(n, s) y = ConstantOfShape(k)",
    "Reshape to no shape": f"{N} {ONES} k = Cast<to=7>(x) y = Reshape(ones_, k)",
    "Reshape to another number": f"{N} {ONES} y = Reshape(ones_, s9)",
    "Reshape with a zero too many": f"{N} {ONES} y = Reshape(ones_, sz)",
    "Expand of several": f"{N} y = Expand(pair, n)",
    "Expand to no shape": "k = Cast<to=7>(x) y = Expand(one, k)",
    "Expand to a lower rank": f"{N} y = Expand(ones, n)",
}  # fmt: skip


def test_a_function_with_the_name_of_an_operator_fills_nothing():
    def define(model):
        body, imports = [helper.make_node("Neg", ["a"], ["o"])], [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("", "Identity", ["a"], ["o"], body, imports))

    body = f"{N} {ONES} y = Identity(ones_)"
    assert fill_of(body) is not None
    assert fill_of(body, change=define) is None


@pytest.mark.parametrize("name", NOT_FILLED)
def test_tensors_that_are_not_of_one_number(name):
    assert fill_of(NOT_FILLED[name]) is None
