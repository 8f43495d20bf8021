"""Channels-last regions: what is turned, what stays, and that the numbers do not change."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, parser
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes
from normfold.surgery.layout.plan import plan_layout
from normfold.surgery.layout.region import GroupNorm, candidate
from normfold.targets.lowering import Constant, Lowering, Op
from tests.model.build import options as quiet
from tests.surgery.layouts import CHANNELS, Net, holds, planned, run

LARGE = f"float[2,{CHANNELS},12,10] x"
SMALL = "float[2,3,12,10] x"


def block(net: Net, x: str) -> str:
    """A residual block: Norm-SiLU-Conv twice, and the sum."""
    y = net.conv(net.silu(net.norm(x)))
    return net.node(f"Add({x}, {net.conv(net.silu(net.norm(y)))})")


def unet(blocks: int) -> ModelProto:
    net = Net()
    x = net.conv("x", 3, CHANNELS)
    for _ in range(blocks):
        x = block(net, x)
    return net.model(SMALL, net.conv(net.silu(net.norm(x)), CHANNELS, 3))


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("silu", [True, False])
def test_residual_blocks_move_data_at_their_edges_only(blocks: int, silu: bool) -> None:
    done = holds(unet(blocks), silu=silu)
    assert len(done.plan.norms) == 2 * blocks + 1
    assert not done.plan.rejected
    assert "Conv" not in done.ops
    assert "GroupNormalization" not in done.ops
    assert len(done.transposes) == 2
    assert done.transposes[0] == "x"
    assert done.plan.domains == {"com.microsoft": 1}


def test_onnxruntime_lacks_nothing_but_kernels_on_the_cpu() -> None:
    """It reads operators, attributes and shapes before it looks for kernels."""
    result = holds(unet(1)).result
    with pytest.raises(NotImplemented_, match=r"GroupNorm|NhwcConv"):
        ort.InferenceSession(result.SerializeToString(), quiet(), providers=["CPUExecutionProvider"])
    next(node for node in result.graph.node if node.op_type == "GroupNorm").attribute[0].name = "nonsense"
    with pytest.raises(InvalidGraph, match="nonsense"):
        ort.InferenceSession(result.SerializeToString(), quiet(), providers=["CPUExecutionProvider"])


def test_the_plan_is_in_the_order_of_the_graph() -> None:
    """A set has no order that lasts from one run to the next."""
    done = holds(unet(3))
    weights = [node.input[1] for node in done.model.graph.node if node.op_type == "Conv"]
    assert [tensor.name for tensor in done.plan.tensors] == [f"{name}.channels_last" for name in weights]
    norms = [node.output[0] for node in done.model.graph.node if node.op_type == "GroupNormalization"]
    assert len(done.plan.constants) == 2 * len(norms)
    silus = [site.y.name for site in done.sites.values()]
    assert [c.name for c in done.plan.constants] == [f"{name}.{part}" for name in silus for part in ("scale", "bias")]


def test_what_the_edges_cost_has_to_be_saved() -> None:
    """Large tensors at both ends: one norm does not pay for two Transposes, three do."""
    for count, turned in ((1, 0), (2, 0), (3, 3)):
        net = Net()
        x = "x"
        for _ in range(count):
            x = net.conv(net.silu(net.norm(x)))
        done = holds(net.model(LARGE, x))
        assert len(done.plan.norms) == turned
        assert len(done.transposes) == (2 if turned else 0)
        if not turned:
            assert done.result.graph == done.model.graph
            assert not done.plan.domains
        for why in done.plan.rejected.values():
            assert (why.operator, why.key) == ("com.microsoft.GroupNorm", "layout")
            assert "elements" in why.message


def test_a_norm_between_operators_that_stay() -> None:
    net = Net()
    pooled = net.node("MaxPool<kernel_shape=[2,2]>(x)")
    y = net.node(f"GlobalAveragePool({net.norm(pooled)})")
    done = holds(net.model(LARGE, y))
    assert not done.plan.norms
    assert len(done.plan.rejected) == 1
    assert len(holds(net.model(LARGE, y), gain=2.5).transposes) == 2


def test_transposes_of_the_graph_cancel() -> None:
    net = Net()
    first = net.node("Transpose<perm=[0,3,1,2]>(x)")
    last = net.node(f"Transpose<perm=[0,2,3,1]>({net.silu(net.norm(net.conv(first)))})")
    done = holds(net.model(f"float[2,6,5,{CHANNELS}] x", net.node(f"Relu({last})")))
    assert done.ops == ["NhwcConv", "GroupNorm", "Relu"]
    assert sorted(done.plan.gone) != []


def test_transposes_that_others_need_stay() -> None:
    net = Net()
    first = net.node("Transpose<perm=[0,3,1,2]>(x)")
    pooled = net.node(f"MaxPool<kernel_shape=[2,2]>({first})")
    y = net.silu(net.norm(net.conv(first)))
    last = net.node(f"Transpose<perm=[0,2,3,1]>({y})")
    again = net.node(f"Transpose<perm=[0,2,3,1]>({y})")
    total = net.node(f"Add({last}, {again})")
    done = holds(net.model(f"float[2,6,5,{CHANNELS}] x", total, pooled))
    assert done.ops == ["Transpose", "MaxPool", "NhwcConv", "GroupNorm", "Identity", "Add"]


def test_a_pair_of_transposes_in_a_row() -> None:
    net = Net()
    first = net.node("Transpose<perm=[0,3,1,2]>(x)")
    back = net.node(f"Transpose<perm=[0,2,3,1]>({first})")
    y = net.node(f"Transpose<perm=[0,2,3,1]>({net.norm(first)})")
    done = holds(net.model(f"float[2,6,5,{CHANNELS}] x", back, y))
    assert done.ops == ["Identity", "GroupNorm"]


def test_a_copy_that_the_graph_has_is_used() -> None:
    net = Net()
    pooled = net.node("MaxPool<kernel_shape=[2,2]>(x)")
    normed = net.norm(pooled)
    copy = net.node(f"Transpose<perm=[0,2,3,1]>({pooled})")
    y = net.node(f"Transpose<perm=[0,2,3,1]>({normed})")
    again = net.node(f"Transpose<perm=[0,2,3,1]>({pooled})")
    done = holds(net.model(LARGE, net.node(f"Sum({copy}, {y}, {again})")))
    assert done.ops == ["MaxPool", "Transpose", "GroupNorm", "Identity", "Sum"]


def test_a_norm_of_something_else_than_images() -> None:
    net = Net()
    flat = net.node("Reshape(x, s)")
    net.init["s"] = np.array([0, 0, -1])
    net.init["back"] = np.array([0, 0, 12, 10])
    done = holds(net.model(LARGE, net.node(f"Reshape({net.norm(flat)}, back)")), gain=9.0)
    assert "four dimensions" in next(iter(done.plan.rejected.values())).message


def test_other_permutations_are_no_change_of_layout() -> None:
    net = Net()
    x = net.node("Transpose<perm=[0,1,3,2]>(x)")
    done = holds(net.model(LARGE, net.node(f"Transpose<perm=[0,1,3,2]>({net.norm(x)})")))
    assert not done.plan.norms
    assert done.result.graph == done.model.graph


def test_branches_share_one_transpose() -> None:
    net = Net()
    x = net.node("MaxPool<kernel_shape=[2,2]>(x)")
    branches = [net.silu(net.norm(net.conv(x))) for _ in range(3)]
    total = net.node(f"Sum({', '.join(branches)})")
    done = holds(net.model(LARGE, net.node(f"MaxPool<kernel_shape=[2,2]>({total})")))
    assert len(done.plan.norms) == 3
    assert len(done.transposes) == 2


def test_a_tensor_that_is_read_in_both_layouts() -> None:
    net = Net()
    x = net.conv("x", 3, CHANNELS)
    a = net.silu(net.norm(x))
    b = net.silu(net.norm(net.conv(a)))
    c = net.conv(net.silu(net.norm(net.conv(b))), CHANNELS, 3)
    done = holds(net.model(SMALL, c, net.node(f"GlobalAveragePool({b})")))
    assert len(done.plan.norms) == 3
    assert len(done.transposes) == 3


def test_concat_split_and_resize_go_along() -> None:
    net = Net()
    x = net.conv("x", 3, CHANNELS)
    joined = net.node(f"Concat<axis=1>({net.silu(net.norm(x))}, {x})")
    net.init["s"] = np.array([1, 1, 2, 2], "float32")
    large = net.node(f'Resize<mode="nearest", coordinate_transformation_mode="asymmetric">({joined}, , s)')
    net.init["p"] = np.array([0, 0, 0, 1, 0, 0, 1, 2])
    padded = net.node(f"Pad({large}, p)")
    first = net.node(f"Split<axis=-3, num_outputs=2>({padded})", outputs=2)
    total = net.node(f"Mul({first}, {first[:-1]}b)")
    done = holds(net.model(SMALL, net.conv(net.silu(net.norm(total)), CHANNELS, 3)))
    assert len(done.transposes) == 2
    axes = {n.op_type: a.i for n in done.result.graph.node for a in n.attribute if a.name == "axis"}
    assert axes == {"Concat": 3, "Split": 3}


def test_operands_that_broadcast() -> None:
    net = Net()
    x = net.conv("x", 3, CHANNELS)
    net.init |= {
        "c3": net.rng.normal(size=(CHANNELS, 1, 1)).astype("float32"),
        "c4": net.rng.normal(size=(1, CHANNELS, 1, 1)).astype("float32"),
        "row": net.rng.normal(size=(10,)).astype("float32"),
        "one": net.rng.normal(size=(1, 1)).astype("float32"),
        "slope": net.rng.normal(size=(CHANNELS, 1, 1)).astype("float32"),
    }
    x = net.node(f"Mul({x}, c3)")
    x = net.node(f"Sub(c4, {x})")
    x = net.node(f"Add({x}, row)")
    x = net.node(f"Div({x}, one)")
    x = net.node(f"PRelu({x}, slope)")
    x = net.node(f"Add({x}, e)")
    x = net.node(f"Mul({x}, k)")
    y = net.conv(net.silu(net.norm(x)), CHANNELS, 3)
    done = holds(net.model(f"{SMALL}, float[2,{CHANNELS},1,1] e, float k", y))
    assert done.transposes == ["x", "e", y.replace(y, done.transposes[-1])]
    assert {tuple(t.dims) for t in done.plan.tensors} >= {(1, 1, 1, CHANNELS), (1, 1, 10, 1)}


def test_what_broadcasts_and_has_no_layout_keeps_an_operator_where_it_is() -> None:
    net = Net()
    x = net.node(f"Add({net.conv('x', 3, CHANNELS)}, v)")
    y = net.conv(net.silu(net.norm(x)), CHANNELS, 3)
    done = holds(net.model(f"{SMALL}, float[10] v", y))
    assert "Conv" in done.ops


# What stands in front of a norm, and how many Convs stay channels-first.
NEIGHBOURS = {
    "dynamic weight": 2,
    "linear": 1,
    "graph output": 1,
    "grouped": 0,
    "strided": 0,
    "one-dimensional weight": 0,
    "clipped": 0,
}


@pytest.mark.parametrize("change", NEIGHBOURS)
def test_neighbours(change: str) -> None:
    net = Net()
    inputs = SMALL
    x = net.conv("x", 3, CHANNELS, extra=", strides=[2,1], dilations=[1,2]" if change == "strided" else "")
    if change == "dynamic weight":
        inputs += f", float[{CHANNELS},{CHANNELS},1,1] w"
        x = net.node(f"Conv({x}, w)")
    if change == "linear":
        net.init["s"] = np.array([1, 1, 2, 2], np.float32)
        x = net.node(f'Resize<mode="linear">({x}, , s)')
    if change == "grouped":
        w = net.weight(CHANNELS, CHANNELS // 2, 3, 3)
        x = net.node(f'Conv<group=2, auto_pad="SAME_UPPER">({x}, {w})')
    if change == "one-dimensional weight":
        x = net.node(f"Conv({x}, {net.weight(CHANNELS, CHANNELS, 1, 1)})")
    if change == "clipped":
        net.init |= {"low": np.array(-1, np.float32), "high": np.array(1, np.float32)}
        x = net.node(f"Dropout({net.node(f'Clip({x}, low, high)')})")
    outputs = [net.conv(net.silu(net.norm(x)), CHANNELS, 3)]
    outputs += [x] if change == "graph output" else []
    done = holds(net.model(inputs, *outputs), gain=2.0)
    assert len(done.plan.norms) == 1
    assert len(done.transposes) == 2
    assert done.ops.count("Conv") == NEIGHBOURS[change]


def test_a_transpose_that_nobody_else_can_use_is_not_touched() -> None:
    net = Net()
    pooled = net.node("MaxPool<kernel_shape=[2,2]>(x)")
    kept = net.node(f"Transpose<perm=[0,2,3,1]>({net.node(f'Add({pooled}, v)')})")
    first = net.node("Transpose<perm=[0,3,1,2]>(z)")
    y = net.node(f"Transpose<perm=[0,2,3,1]>({net.norm(net.node(f'Add({first}, {pooled})'))})")
    shapes = f"float[2,{CHANNELS},6,8] x, float[2,5,7,{CHANNELS}] z, float[7] v"
    done = holds(net.model(shapes, kept, y), gain=2.0)
    assert len(done.plan.norms) == 1
    assert kept not in [node.output.name for node in done.plan.dropped]
    again = Net()
    normed = again.norm("x")
    copy = again.node("Transpose<perm=[0,2,3,1]>(x)")
    done = holds(again.model(LARGE, again.node(f"MaxPool<kernel_shape=[2,2]>({normed})"), copy))
    assert done.result.graph == done.model.graph


def test_what_hangs_together_with_no_norm_is_left_alone() -> None:
    """Its Transposes would cancel; but the norm behind it stays as it is, because it is cheaper to turn a small tensor."""
    net = Net()
    x = net.conv(net.node("Transpose<perm=[0,3,1,2]>(x)"))
    last = net.node(f"Transpose<perm=[0,2,3,1]>({x})")
    net.init["s"] = np.array([1, 1, 2, 2], np.float32)
    large = net.node(f'Resize<mode="nearest">({x}, , s)')
    pooled = net.node(f"MaxPool<kernel_shape=[2,2]>({net.norm(large)})")
    done = holds(net.model(f"float[2,6,8,{CHANNELS}] x", last, pooled), gain=0.1)
    assert not done.plan.norms
    assert done.result == done.model


def test_what_a_norm_reads_besides_its_input_stays_as_it_is() -> None:
    """The addition of an embedding goes into the norm's operator, which reads the embedding by its name."""
    net = Net()
    wide = net.conv("x", 3, CHANNELS)
    embedding = net.conv("e", 3, CHANNELS, kernel=1)
    total = net.node(f"Add({wide}, {embedding})")
    y = net.conv(net.node(f"Add({net.norm(total)}, {embedding})"), CHANNELS, 3)
    loaded = load(net.model(f"{SMALL}, float[2,3,1,1] e", y))
    constants = Constants()
    norm = next(node for node in loaded.graph.nodes if node.op_type == "GroupNormalization")
    addition = norm.inputs[0].producer
    ops = (
        Op("Reshape", (embedding, "shape"), ("skip",)),
        Op("SkipGroupNorm", ("x_last", "scale", "scale", "skip"), ("y_last",), {"groups": 2}, "com.microsoft"),
    )
    parameters = (Constant("shape", np.array([0, CHANNELS]), 7), Constant("scale", np.ones(CHANNELS), 1))
    nodes = frozenset((norm, addition))
    site = GroupNorm(addition.inputs[0], norm.output, nodes, ops, "x_last", "y_last", parameters)
    plan = plan_layout(loaded.graph, constants, Shapes(constants), {"n": site}, lambda hint: f"new.{hint}")
    reshape, skip = plan.norms["n"]
    assert reshape.inputs == (embedding, f"new.{norm.output.name}.shape")
    assert skip.inputs == (f"new.{wide}.channels_last", *[f"new.{norm.output.name}.scale"] * 2, reshape.outputs[0])
    made = {name for op in plan.replaced.values() for name in op.outputs} | {i.op.outputs[0] for i in plan.inserted}
    kept = {node.output.name for node in loaded.graph.nodes if node not in plan.replaced and node not in nodes}
    assert embedding in made | kept
    assert embedding not in plan.gone


def test_a_body_that_captures_a_tensor_reads_it_as_it_was() -> None:
    text = f"""<ir_version: 8, opset_import: ["": 21]> g (float[2,{CHANNELS},6,5] x, bool c) => (float[2,{CHANNELS},6,5] y) {{
        f = Transpose<perm=[0,2,3,1]>(x) a = Transpose<perm=[0,3,1,2]>(f)
        r = Relu(a)
        n = GroupNormalization<num_groups=2>(r, s, s)
        i = If(c) < then_branch = t () => (float[2,{CHANNELS},6,5] p) {{ p = Neg(r) }},
                    else_branch = e () => (float[2,{CHANNELS},6,5] q) {{ q = Abs(r) }} >
        y = Add(n, i)
    }}"""
    model = parser.parse_model(text)
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.FLOAT, [CHANNELS], [1.5] * CHANNELS))
    done = planned(model, gain=5.0)
    assert len(done.plan.norms) == 1
    feeds = {"x": np.random.default_rng(0).normal(size=(2, CHANNELS, 6, 5)).astype("float32"), "c": np.array(True)}
    np.testing.assert_allclose(run(model, feeds)[0], run(done.result, feeds)[0], rtol=1e-4, atol=1e-4)


def test_sizes_that_are_not_known_are_not_compared() -> None:
    net = Net()
    x = net.conv("x", 3, CHANNELS)
    x = block(net, x)
    done = holds(net.model("float[N,3,H,W] x", net.conv(x, CHANNELS, 3)), sizes={"N": 2, "H": 7, "W": 9})
    assert len(done.plan.norms) == 2
    assert len(done.transposes) == 2


class Given(str):
    """The name of a tensor of the graph, as lowerings mark it."""

    __slots__ = ()


def lowering(*nodes: Op) -> Lowering:
    return Lowering("com.microsoft.GroupNorm", nodes, (Constant("scale", np.ones(CHANNELS), 1),), 17, "")


INWARD = Op("Transpose", ("x",), ("in",), {"perm": [0, 2, 3, 1]})
CORE = Op("GroupNorm", ("in", "scale", "scale"), ("out",), {"groups": 2}, "com.microsoft")
OUTWARD = Op("Transpose", ("out",), ("y",), {"perm": [0, 3, 1, 2]})


def test_a_lowering_between_transposes() -> None:
    net = Net()
    loaded = load(net.model(LARGE, net.norm("x")))
    (node,) = loaded.graph.nodes
    x, nodes = loaded.graph.values["x"], frozenset((node,))
    found = candidate(lowering(INWARD, CORE, OUTWARD), x, node.output, nodes)
    assert found is not None
    assert (found.ops, found.reads, found.makes) == ((CORE,), "in", "out")
    assert len(found.constants) == 1
    addition = Op("Add", ("y0", "scale"), ("y",))
    inner = Op("Transpose", ("out",), ("y0",), {"perm": [0, 3, 1, 2]})
    both = Op("Mul", ("in", "x"), ("more",))
    for others in (
        (CORE,),
        (INWARD, CORE, inner, addition),
        (INWARD, both, CORE, OUTWARD),
        (INWARD, INWARD, CORE, OUTWARD),
    ):
        assert candidate(lowering(*others), x, node.output, nodes) is None


def test_a_tensor_of_the_graph_may_be_called_like_a_placeholder() -> None:
    net = Net()
    y = net.norm(net.node("MaxPool<kernel_shape=[2,2]>(scale)"))
    loaded = load(net.model(f"float[2,{CHANNELS},4,4] scale", net.node(f"Transpose<perm=[0,2,3,1]>({y})")))
    constants = Constants()
    norm = next(node for node in loaded.graph.nodes if node.op_type == "GroupNormalization")
    core = Op("GroupNorm", ("in", "scale", Given("scale")), ("out",), {"groups": 2}, "com.microsoft")
    site = candidate(lowering(INWARD, core, OUTWARD), norm.inputs[0], norm.output, frozenset((norm,)))
    plan = plan_layout(loaded.graph, constants, Shapes(constants), {"n": site}, lambda hint: f"new.{hint}")
    (op,) = plan.norms["n"]
    assert op.inputs[1:] == (f"new.{y}.scale", "scale")
    assert {type(name) for name in op.inputs} == {str}


def test_a_graph_without_norms_stays() -> None:
    net = Net()
    model = net.model(SMALL, net.node(f"Relu({net.conv('x', 3, CHANNELS)})"))
    done = holds(model)
    assert done.result == model
