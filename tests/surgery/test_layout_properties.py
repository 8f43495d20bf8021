"""Any network of norms, Convs and what may stand between them: the numbers stay, and no more data is moved."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from tests.surgery.layouts import CHANNELS, Net, holds

STEPS = ("norm", "norm", "conv", "silu", "add", "relu", "pool", "to_first", "to_last", "concat", "scale", "row")


@st.composite
def networks(draw: st.DrawFn) -> ModelProto:
    """Tensors in both layouts; every step reads one or two that there are."""
    net = Net(draw(st.integers(0, 9)))
    net.init |= {
        "c": net.rng.normal(size=(CHANNELS, 1, 1)).astype("float32"),
        "r": net.rng.normal(size=(1, 4)).astype("float32"),
    }
    images, turned = ["x"], ["z"]
    unread = {"x", "z"}

    def pick(names: list[str]) -> str:
        name = draw(st.sampled_from(names[-3:]))
        unread.discard(name)
        return name

    for step in draw(st.lists(st.sampled_from(STEPS), min_size=3, max_size=12)):
        if step == "to_last":
            turned.append(net.node(f"Transpose<perm=[0,2,3,1]>({pick(images)})"))
            unread.add(turned[-1])
            continue
        made = _step(net, step, lambda: pick(images), lambda: pick(turned))
        images.append(made)
        unread.add(made)
    outputs = [net.node(f"Neg({name})") for name in sorted(unread)]
    model = net.model(f"float[2,{CHANNELS},4,4] x, float[2,4,4,{CHANNELS}] z", *outputs)
    if draw(st.booleans()) and len(images) > 1 and images[-1] not in outputs:
        info = model.graph.output.add()
        info.CopyFrom(model.graph.output[0])
        info.name = images[-1]
    return model


def _step(net: Net, step: str, image: object, last: object) -> str:
    assert callable(image)
    assert callable(last)
    if step == "norm":
        return net.norm(image())
    if step == "conv":
        return net.conv(image(), kernel=1)
    if step == "silu":
        return net.silu(image())
    if step == "add":
        return net.node(f"Add({image()}, {image()})")
    if step == "pool":
        return net.node(f"MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({image()})")
    if step == "to_first":
        return net.node(f"Transpose<perm=[0,3,1,2]>({last()})")
    if step == "concat":
        joined = net.node(f"Concat<axis=1>({image()}, {image()})")
        return net.conv(joined, 2 * CHANNELS, CHANNELS, kernel=1)
    if step == "scale":
        return net.node(f"Mul({image()}, c)")
    if step == "row":
        return net.node(f"Sub(r, {image()})")
    return net.node(f"Relu({image()})")


@settings(max_examples=120)
@given(networks(), st.sampled_from([0.5, 1.0, 2.5]), st.booleans())
def test_any_network(model: ModelProto, gain: float, silu: bool) -> None:
    holds(model, gain=gain, silu=silu)
