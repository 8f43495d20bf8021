"""What the recogniser must not take for a norm, or for a part of one, where the operators before and behind would allow it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import AttributeProto, TensorProto, helper

from normfold.norm import frame
from normfold.norm.recognise import Recogniser
from tests.model.build import net, node
from tests.norm.recognising import only
from tests.norm.test_near_misses import DIMS, LAYER, G, H, behind, norms_of_x, recognisable

ONES = np.ones(H, np.float32)


def found(model, **options):
    """The results of all norms that are recognised."""
    return [site.output.name for site in Recogniser(*recognisable(model), **options).sites()]


def test_only_statistics_that_are_wanted_begin_a_norm():
    stray = node("ReduceMean", ["x"], ["z"], axes=[-1])
    model = net([stray, *LAYER.values(), node("Relu", ["n"], ["y"])],
                {"x": DIMS}, ["y", "z"], {"e": np.float32(1e-5)})  # fmt: skip
    loaded, shapes = recognisable(model)
    nodes = {item.output.name: item for item in loaded.graph.nodes}
    for wanted, result in (("m", ["n"]), ("v", ["n"]), ("z", [])):
        recogniser = Recogniser(loaded, shapes, {id(nodes[wanted])})
        assert [site.output.name for site in recogniser.sites()] == result, wanted


def test_what_only_asks_for_a_size_is_no_part_of_a_norm():
    """The length that a sum is divided by comes from the shape of another tensor of that shape."""
    sizes = [node("Neg", ["x"], ["u"]), node("Shape", ["u"], ["s"]), node("Gather", ["s", "two_"], ["c"], axis=0)]
    mean = [
        *sizes,
        node("Cast", ["c"], ["f"], to=1),
        node("ReduceSum", ["x", "last"], ["t"]),
        node("Div", ["t", "f"], ["m"]),
    ]
    rest = [LAYER[name] for name in "dpvwrn"]
    weights = {"e": np.float32(1e-5), "two_": np.array(2), "last": np.array([-1])}
    site = only(net([*mean, *rest], {"x": [2, 3, H]}, ["n"], weights))
    assert "u" not in {item.output.name for item in site.nodes}


def test_nothing_is_left_of_a_norm_less_itself():
    """`n - n + b` has the moment of a norm, and nothing of x."""
    square = [node("Mul", ["x", "x"], ["p"]), *(LAYER[name] for name in "vwr"), node("Div", ["x", "r"], ["n"])]
    end = [node("Sub", ["n", "n"], ["z"]), node("Add", ["z", "g"], ["y"])]
    model = net([*square, *end], {"x": DIMS}, ["y"], {"e": np.float32(1e-5), "g": G})
    assert set(norms_of_x(model)) == {"n"}


@pytest.mark.parametrize(
    ("statistic", "dims"),
    [
        (node("ReduceMean", ["x"], [], axes=[-1]), [2, 3, H]),
        (node("LayerNormalization", ["x", "s"], ["n"], axis=5), [2, 3, H]),
        (node("GroupNormalization", ["x", "s", "s"], ["n"], num_groups=2), [H]),
        (node("GroupNormalization", ["x", "s", "s"], ["n"], num_groups=0), [2, 4, 5]),
    ],
)
def test_statistics_that_are_none(statistic, dims):
    assert not found(net([statistic, node("Relu", ["x"], ["y"])], {"x": dims}, ["y"], {"s": ONES}, opset=21, ir=10))


def test_integers_have_no_norm_however_it_is_spelled():
    model = net(LAYER.values(), {"x": [2, 3, H]}, ["n"], {"e": np.float32(1e-5)}, elem=TensorProto.INT64)
    assert found(model) == []


@pytest.mark.parametrize(
    ("statistic", "name"),
    [
        (node("LayerNormalization", ["x", "s"], ["n"]), "axis"),
        (node("ReduceMean", ["x"], ["n"]), "axes"),
        (node("BatchNormalization", ["x", "s", "s", "s", "s"], ["n"]), "training_mode"),
    ],
)
def test_statistics_with_an_attribute_that_a_caller_gives(statistic, name):
    """Nobody knows its value; it is not even asked for."""
    bound = type(statistic)()
    bound.CopyFrom(statistic)
    bound.attribute.add(
        name=name, type=AttributeProto.INTS if name == "axes" else AttributeProto.INT, ref_attr_name="a"
    )
    first = node("ReduceMean", ["x"], ["m"], axes=[-1])
    model = net([bound, first, node("Relu", ["n"], ["y"])], {"x": [1, H, 5]}, ["y"], {"s": ONES})
    assert found(model) == []
    bound.input[0] = "m"
    model = net([first, bound, node("Relu", ["n"], ["y"])], {"x": [1, H, 5]}, ["y"], {"s": ONES})
    assert found(model) == []


def test_an_output_that_is_left_out():
    normed = node("LayerNormalization", ["x", "s"], ["n", "", "i"])
    model = net([normed, node("Mul", ["n", "i"], ["y"])], {"x": [2, 3, H]}, ["y"], {"s": ONES})
    assert found(model) == []


def bare(*nodes, dims=(2, 3, H), inputs=None, outputs=("y",), weights=None, **options):
    """A norm without parameters and what stands behind it."""
    return net([*LAYER.values(), *nodes], {"x": list(dims), **(inputs or {})}, list(outputs),
               {"e": np.float32(1e-5), **(weights or {})}, **options)  # fmt: skip


def test_a_symbolic_length_is_no_proof_for_a_scale():
    model = bare(node("Mul", ["n", "z"], ["y"]), dims=("n", "s", "h"), inputs={"z": ["h"]})
    assert not only(model).operands


def test_a_scale_of_another_type():
    model = behind(node("Mul", ["n", "z"], ["y"]))
    model.graph.input[1].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(np.float16))
    (site,) = Recogniser(*recognisable(model)).sites()
    assert not site.operands


def test_a_product_of_one():
    (site,) = Recogniser(*recognisable(bare(node("Mul", ["n"], ["y"])))).sites()
    assert site.output.name == "n"


def test_a_product_inside_of_a_body():
    inside = helper.make_graph(
        [node("Mul", ["n", "z"], ["t"])], "t", [], [helper.make_tensor_value_info("t", 1, [2, 3, H])]
    )
    other = helper.make_graph([node("Relu", ["x"], ["o"])], "o", [], [helper.make_tensor_value_info("o", 1, [2, 3, H])])
    choice = node("If", ["q"], ["y"], then_branch=inside, else_branch=other)
    model = bare(choice, inputs={"z": [H], "q": []})
    model.graph.input[2].type.tensor_type.elem_type = 9
    (site,) = Recogniser(*recognisable(model)).sites()
    assert (site.output.name, site.operands) == ("n", ())


def test_a_constant_that_is_too_large_to_look_at_is_no_operand(monkeypatch):
    model = bare(node("Mul", ["n", "g"], ["y"]), weights={"g": G})
    assert only(model).norm.gamma is not None
    monkeypatch.setattr(frame, "_MOST_ELEMENTS", H - 1)
    site = only(model)
    assert (site.output.name, site.norm.scale) == ("n", None)


def test_before_opset_7_a_product_does_not_stretch():
    normed = node("InstanceNormalization", ["x", "s", "t"], ["n"])
    weights = {"s": np.ones(4, np.float32), "t": np.zeros(4, np.float32)}
    for opset, count in ((6, 0), (7, 1)):
        nodes = [normed, node("Mul", ["n", "z"], ["y"])]
        (site,) = Recogniser(
            *recognisable(net(nodes, {"x": [2, 4, 5, 6], "z": [5, 6]}, ["y"], weights, opset=opset, ir=4))
        ).sites()
        assert len(site.operands) == count
