"""Every crossing: a positive scale, a scale of mixed signs and a shift, each alone, past one operator.

A row says what must happen to the three: "" folds, a key is the reason to stay. All rows run in onnxruntime.
"""

# ruff: noqa: E501 - a table, one row a line
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from normfold.surgery.planner import Exclusions
from tests.support import batch_norm, build, check, folds, positive, random, stays


@dataclass(frozen=True)
class Row:
    """`c` (a Conv of 4 channels on 6 x 6) goes in, `d` comes out."""

    text: str
    positive: str = ""
    mixed: str = ""
    shift: str = ""
    init: dict[str, Any] = field(default_factory=dict)
    opset: int = 17
    shape: tuple[int, ...] = (4, 1, 1)
    inputs: str = "float[2,3,8,8] x"
    outputs: str = "y"
    values: Any = None  # magnitudes of the scale where they must agree between channels
    weight: tuple[int, ...] = (4, 3, 3, 3)
    sizes: dict[str, int] = field(default_factory=dict)


F32 = np.float32
INT = lambda *v: np.array(v, np.int64)  # noqa: E731
UNIFORM = {"shape": (1,)}
STOP = {"positive": "no-absorber", "mixed": "no-absorber", "shift": "no-absorber"}
NPC = {"positive": "not-per-channel", "mixed": "not-per-channel", "shift": "not-per-channel"}
UNKNOWN = {"positive": "shape-unknown", "mixed": "shape-unknown", "shift": "shape-unknown"}
NEGATIVE = {"mixed": "negative-scale"}
NO_SHIFT = {"shift": "shift-blocked"}
PAIRS = np.array([1.5, 1.5, 0.5, 0.5], F32)
ROIS = {"r": np.array([[0, 0, 3, 4], [1, 1, 5, 5]], F32), "i": INT(0, 1)}
# where MaxUnpool puts every element: the first corner of its window of the 12 x 12 image, in the flat tensor
CORNERS = INT(*np.add.outer(np.arange(8) * 144, np.add.outer(np.arange(6) * 24, np.arange(6) * 2)).ravel()).reshape(
    2, 4, 6, 6
)

ROWS = {
    # nothing but the tensor
    "Identity": Row("d = Identity(c)"),
    "Dropout": Row("d = Dropout(c)"),
    "Dropout, mask named": Row("d, mask = Dropout(c)"),
    "Dropout, ratio 0.5": Row("d = Dropout(c, p)", init={"p": F32(0.5)}),
    "Dropout-12, training false": Row("d = Dropout(c, p, f)", init={"p": F32(0.5), "f": np.array(False)}, opset=12),
    "Dropout-7": Row("d = Dropout<ratio=0.7>(c)", opset=7),
    "Dropout-10, mask": Row("d, mask = Dropout<ratio=0.7>(c)", opset=10),
    "Cast to the same type": Row("d = Cast<to=1>(c)"),
    "Cast to float64": Row("e = Cast<to=11>(c) d = Cast<to=1>(e)", **STOP),
    # layout
    "Transpose": Row("d = Transpose<perm=[0, 2, 3, 1]>(c)", shape=(4,)),
    "Transpose, all axes": Row("d = Transpose(c)", shape=(4, 1)),
    "Transpose, not the channel": Row("d = Transpose<perm=[0, 2, 3, 1]>(c)", shape=(6, 1), **NPC),
    "Reshape, spatial merged": Row("d = Reshape(c, s)", init={"s": INT(0, 0, -1)}, shape=(4, 1)),
    "Reshape, batch and channel merged": Row("d = Reshape(c, s)", init={"s": INT(-1, 6, 6)}, shape=(8, 1, 1), values=np.tile([1, 2, 3, 4], 2)),
    "Reshape, and they differ": Row("d = Reshape(c, s)", init={"s": INT(-1, 6, 6)}, shape=(8, 1, 1), **NPC),
    "Reshape, channel split": Row("d = Reshape(c, s)", init={"s": INT(0, 2, 2, 6, 6)}, shape=(2, 2, 1, 1)),
    "Reshape, channel split, half": Row("d = Reshape(c, s)", init={"s": INT(0, 2, 2, 6, 6)}, shape=(2, 1, 1)),
    "Reshape, channel cut": Row("d = Reshape(c, s)", init={"s": INT(0, 3, 48)}, shape=(3, 1), **NPC),
    "Reshape, allowzero": Row("d = Reshape<allowzero=1>(c, s)", init={"s": INT(2, 4, 36)}, shape=(4, 1)),
    "Reshape to rows of channels": Row("d = Reshape(c, s)", init={"s": INT(2, 4, 6, 6, 1)}, shape=(4, 1, 1, 1)),
    "Reshape, dynamic batch": Row("d = Reshape(c, s)", init={"s": INT(0, 4, -1)}, inputs="float[N,3,8,8] x", shape=(4, 1)),
    "Reshape, dynamic batch as -1": Row("d = Reshape(c, s)", init={"s": INT(-1, 4, 36)}, inputs="float[N,3,8,8] x", shape=(4, 1)),
    "Reshape, dynamic image": Row("d = Reshape(c, s)", init={"s": INT(0, 4, -1)}, inputs="float[N,3,H,W] x", shape=(4, 1), sizes={"H": 8, "W": 7}),
    "Reshape, computed shape": Row(
        "s0 = Shape(x) i = Constant<value_ints=[0]>() n = Gather(s0, i) l = Constant<value_ints=[4, -1]>() s = Concat<axis=0>(n, l) d = Reshape(c, s)",
        inputs="float[N,3,H,W] x", shape=(4, 1), sizes={"H": 8, "W": 7}, outputs="float[N,4,L] y"),
    "Flatten": Row("d = Flatten(c)", shape=(144,), values=np.repeat([1, 2, 3, 4], 36)),
    "Flatten, differs inside a channel": Row("d = Flatten(c)", shape=(144,), **NPC),
    "Flatten, dynamic image": Row("d = Flatten(c)", shape=(1,), inputs="float[N,3,H,W] x", sizes={"H": 8, "W": 7}),
    "Flatten of [N, C, 1, 1]": Row("p = GlobalAveragePool(c) d = Flatten(p)", shape=(4,), inputs="float[N,3,H,W] x", sizes={"H": 8, "W": 7}),
    "Flatten<axis=0>": Row("d = Flatten<axis=0>(c)", shape=(288,), values=np.tile(np.repeat([1, 2, 3, 4], 36), 2)),
    "Flatten<axis=2>": Row("d = Flatten<axis=2>(c)", shape=(8, 1), values=np.tile([1, 2, 3, 4], 2)),
    "Flatten<axis=-1>": Row("d = Flatten<axis=-1>(c)", shape=(48, 1), values=np.tile(np.repeat([1, 2, 3, 4], 6), 2)),
    "channel shuffle": Row(
        "r = Reshape(c, s) t = Transpose<perm=[0, 2, 1, 3, 4]>(r) d = Reshape(t, u)", init={"s": INT(0, 2, 3, 6, 6), "u": INT(0, -1, 6, 6)}, shape=(6, 1, 1), weight=(6, 3, 3, 3)),
    "Squeeze": Row("p = GlobalAveragePool(c) d = Squeeze(p, a)", init={"a": INT(2, -1)}, shape=(4,)),
    "Squeeze-11": Row("p = GlobalAveragePool(c) d = Squeeze<axes=[2, 3]>(p)", shape=(4,), opset=11),
    "Squeeze without axes": Row("p = GlobalAveragePool(c) d = Squeeze(p)", shape=(4,)),
    "Squeeze without axes, dynamic": Row("p = GlobalAveragePool(c) d = Squeeze(p)", shape=(1,), inputs="float[N,3,8,8] x", outputs="float[N,4] y", **UNKNOWN),
    "Unsqueeze": Row("d = Unsqueeze(c, a)", init={"a": INT(1, -1)}, shape=(4, 1, 1, 1)),
    "Unsqueeze-11": Row("d = Unsqueeze<axes=[0]>(c)", shape=(4, 1, 1), opset=11),
    # selection
    "Split, one part read": Row("d, e = Split<axis=1>(c)", shape=(2, 1, 1), opset=13),
    "Split-18": Row("d, e = Split<axis=1, num_outputs=2>(c)", shape=(3, 1, 1), opset=18, weight=(5, 3, 3, 3)),
    "Split-11 by attribute": Row("e, d = Split<axis=1, split=[1, 3]>(c)", shape=(3, 1, 1), opset=11),
    "Split by input": Row("e, d = Split<axis=-3>(c, s)", init={"s": INT(3, 1)}, shape=(1, 1, 1)),
    "Split on another axis": Row("d, e = Split<axis=2>(c)", opset=13, **NPC),
    "Slice of channels": Row("d = Slice(c, a, b, i)", init={"a": INT(1), "b": INT(3), "i": INT(1)}, shape=(2, 1, 1)),
    "Slice-9": Row("d = Slice<axes=[1], starts=[-2], ends=[9223372036854775807]>(c)", shape=(2, 1, 1), opset=9),
    "Slice backwards": Row("d = Slice(c, a, b, i, s)", init={"a": INT(-1), "b": INT(-9), "i": INT(1), "s": INT(-1)}),
    "Slice backwards by two": Row("d = Slice(c, a, b, i, s)", init={"a": INT(3), "b": INT(0), "i": INT(1), "s": INT(-2)}, shape=(2, 1, 1)),
    "Slice by two": Row("d = Slice(c, a, b, i, s)", init={"a": INT(0), "b": INT(4), "i": INT(1), "s": INT(2)}, shape=(2, 1, 1)),
    "Slice of rows": Row("d = Slice(c, a, b, i)", init={"a": INT(1), "b": INT(3), "i": INT(2)}),
    "Gather permutation": Row("d = Gather<axis=1>(c, i)", init={"i": INT(2, 0, 3, 1)}),
    "Gather negative": Row("d = Gather<axis=1>(c, i)", init={"i": INT(-1, 1)}, shape=(2, 1, 1)),
    "Gather of rows": Row("d = Gather<axis=2>(c, i)", init={"i": INT(0, 0, 5)}),
    "Gather twice, equal": Row("d = Gather<axis=1>(c, i)", init={"i": INT(1, 1, 2, 2)}, values=PAIRS, mixed="branch"),
    "Gather twice, different": Row("d = Gather<axis=1>(c, i)", init={"i": INT(1, 1)}, shape=(2, 1, 1), positive="branch", mixed="branch", shift="branch"),
    "Gather one, rank falls": Row("d = Gather<axis=1>(c, i)", init={"i": np.array(1)}, shape=(1,)),
    "DepthToSpace DCR": Row("d = DepthToSpace<blocksize=2>(c)", shape=(3, 1, 1), weight=(12, 3, 3, 3)),
    "DepthToSpace CRD": Row('d = DepthToSpace<blocksize=2, mode="CRD">(c)', shape=(3, 1, 1), weight=(12, 3, 3, 3)),
    "SpaceToDepth": Row("d = SpaceToDepth<blocksize=2>(c)", shape=(16, 1, 1), values=np.tile([1, 2, 3, 4], 4)),
    "SpaceToDepth, they differ": Row("d = SpaceToDepth<blocksize=2>(c)", shape=(16, 1, 1), positive="branch", mixed="branch", shift="branch"),
    # activations
    "Relu": Row("d = Relu(c)", **NEGATIVE, **NO_SHIFT),
    "LeakyRelu": Row("d = LeakyRelu<alpha=0.3>(c)", **NEGATIVE, **NO_SHIFT),
    "LeakyRelu, negative slope": Row("d = LeakyRelu<alpha=-0.3>(c)", **NEGATIVE, **NO_SHIFT),
    "PRelu": Row("d = PRelu(c, a)", init={"a": random(4, 1, 1, seed=3)}, **NEGATIVE, **NO_SHIFT),
    "PRelu, scalar": Row("d = PRelu(c, a)", init={"a": F32(0.1)}, **NEGATIVE, **NO_SHIFT),
    "Abs": Row("d = Abs(c)", **NEGATIVE, **NO_SHIFT),
    **{op: Row(f"d = {op}(c)", **STOP) for op in ("Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "HardSigmoid", "HardSwish", "Erf", "Exp", "Softmax", "Sqrt", "Floor")},
    "LRN": Row("d = LRN<size=3>(c)", **STOP),
    "Clip, uniform": Row("d = Clip(c, a, b)", init={"a": F32(-0.3), "b": F32(0.6)}, **UNIFORM, **NEGATIVE),
    "Clip, lower only": Row("d = Clip(c, a)", init={"a": F32(0)}, **UNIFORM, **NEGATIVE),
    "Clip, upper only": Row("d = Clip(c, , b)", init={"b": F32(0.5)}, **UNIFORM, **NEGATIVE),
    "Clip-6": Row("d = Clip<min=0.0, max=6.0>(c)", opset=10, **UNIFORM, **NEGATIVE),
    "Clip-6 with the largest float": Row("d = Clip<min=0.0>(c)", opset=6 + 1, **UNIFORM, **NEGATIVE),
    "Clip, per channel": Row("d = Clip(c, a, b)", init={"a": F32(-0.3), "b": F32(0.6)}, **NPC),
    # pooling
    "MaxPool": Row("d = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(c)", **NEGATIVE),
    "MaxPool, pads": Row("d = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c)", **NEGATIVE),
    "MaxPool, ceil": Row("d = MaxPool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, dilations=[2, 1]>(c)", **NEGATIVE),
    "MaxPool, SAME": Row('d = MaxPool<kernel_shape=[3, 3], auto_pad="SAME_LOWER", strides=[2, 2]>(c)', **NEGATIVE),
    "MaxPool, named indices": Row("d, i = MaxPool<kernel_shape=[2, 2]>(c)", **NEGATIVE),
    "GlobalMaxPool": Row("d = GlobalMaxPool(c)", **NEGATIVE),
    "AveragePool": Row("d = AveragePool<kernel_shape=[2, 3]>(c)"),
    "AveragePool, pads": Row("d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c)"),
    "AveragePool, pads counted": Row("d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(c)", **NO_SHIFT),
    "AveragePool, no pads counted": Row("d = AveragePool<kernel_shape=[3, 3], count_include_pad=1>(c)"),
    "AveragePool, zero pads counted": Row("d = AveragePool<kernel_shape=[3, 3], pads=[0, 0, 0, 0], count_include_pad=1>(c)"),
    "AveragePool, SAME": Row('d = AveragePool<kernel_shape=[3, 3], auto_pad="SAME_UPPER">(c)'),
    "AveragePool, SAME counted": Row('d = AveragePool<kernel_shape=[3, 3], auto_pad="SAME_UPPER", count_include_pad=1>(c)', **NO_SHIFT),
    "AveragePool, VALID counted": Row('d = AveragePool<kernel_shape=[3, 3], auto_pad="VALID", count_include_pad=1>(c)'),
    "AveragePool, ceil": Row("d = AveragePool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>(c)"),
    "AveragePool, ceil, pads": Row("d = AveragePool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 0, 0]>(c)"),
    "AveragePool, ceil counted": Row("d = AveragePool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1>(c)", **NO_SHIFT),
    "AveragePool-19, dilations": Row("d = AveragePool<kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1]>(c)", opset=19),
    "GlobalAveragePool": Row("d = GlobalAveragePool(c)", inputs="float[N,3,H,W] x", sizes={"H": 8, "W": 7}),
    "LpPool": Row("d = LpPool<kernel_shape=[2, 2]>(c)", **NEGATIVE, **NO_SHIFT),
    "GlobalLpPool": Row("d = GlobalLpPool(c)", **NEGATIVE, **NO_SHIFT),
    "ReduceL2": Row("d = ReduceL2<axes=[2, 3]>(c)", **NEGATIVE, **NO_SHIFT),
    "ReduceL1-18": Row("d = ReduceL1(c, a)", init={"a": INT(2, 3)}, opset=18, **NEGATIVE, **NO_SHIFT),
    "ReduceMin": Row("d = ReduceMin<axes=[2, 3]>(c)", **NEGATIVE),
    "ReduceMean-17": Row("d = ReduceMean<axes=[2, -1]>(c)"),
    "ReduceMean-18": Row("d = ReduceMean(c, a)", init={"a": INT(2, 3)}, opset=18),
    "ReduceMean, keepdims 0": Row("d = ReduceMean<axes=[3, 2], keepdims=0>(c)", shape=(4,)),
    "ReduceMean, the batch": Row("d = ReduceMean<axes=[0], keepdims=0>(c)"),
    "ReduceMean, the channel": Row("d = ReduceMean<axes=[1]>(c)", **UNIFORM),
    "ReduceMean, the channel, keepdims 0": Row("d = ReduceMean<axes=[1], keepdims=0>(c)", shape=(6, 1), **NPC),
    "ReduceMean of everything": Row("d = ReduceMean(c)", shape=()),
    "ReduceMean-18, no axes, noop": Row("d = ReduceMean<noop_with_empty_axes=1>(c)", opset=18),
    "ReduceMax": Row("d = ReduceMax<axes=[2, 3]>(c)", **NEGATIVE),
    "ReduceMax, keepdims 0": Row("d = ReduceMax<axes=[2], keepdims=0>(c)", shape=(4, 1), **NEGATIVE),
    "ReduceSum": Row("d = ReduceSum(c, a)", init={"a": INT(2, 3)}),
    "ReduceSum-11, keepdims 0": Row("d = ReduceSum<axes=[2, 3], keepdims=0>(c)", shape=(4,), opset=11),
    "ReduceSum of a dynamic image": Row("d = ReduceSum(c, a)", init={"a": INT(2, 3)}, inputs="float[N,3,H,W] x", sizes={"H": 8, "W": 7}, shift="shape-unknown"),
    "MaxPool, varies over space": Row("d = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c)", shape=(6, 1), **NPC),
    "AveragePool, varies over space": Row("d = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c)", shape=(6, 1), **NPC),
    "LpPool, varies over space": Row("d = LpPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(c)", shape=(6, 1), **NPC),
    "DepthToSpace, varies over space": Row("d = DepthToSpace<blocksize=2>(c)", shape=(12, 1), weight=(12, 3, 3, 3), **NPC),
    "SpaceToDepth, varies over the batch": Row("d = SpaceToDepth<blocksize=2>(c)", shape=(2, 1, 1, 1), **NPC),
    "Tile along the channels": Row("d = Tile(c, t)", init={"t": INT(1, 2, 1, 1)}, shape=(8, 1, 1), **NPC),
    "Gather by a matrix": Row("e = Gather<axis=1>(c, i) d = ReduceMean<axes=[1], keepdims=0>(e)", init={"i": INT(0, 1, 2, 3).reshape(2, 2)}, shape=(1,), **STOP),
    "PRelu that stretches": Row("e = Slice(c, n, o, i) d = PRelu(e, a)", init={"n": INT(0), "o": INT(1), "i": INT(1), "a": random(4, 1, 1, seed=3)}, positive="branch", mixed="negative-scale", shift="shift-blocked"),
    "RoiAlign": Row("d = RoiAlign<output_height=2, output_width=2>(c, r, i)", init=ROIS, **NO_SHIFT),
    "RoiAlign, max": Row('d = RoiAlign<output_height=2, output_width=2, mode="max">(c, r, i)', init=ROIS, **NEGATIVE, **NO_SHIFT),
    "RoiAlign, a batch of scales": Row("d = RoiAlign<output_height=2, output_width=2>(c, r, i)", init=ROIS, shape=(2, 1, 1, 1), **NPC),
    "RoiAlign, varies over space": Row("d = RoiAlign<output_height=2, output_width=2>(c, r, i)", init=ROIS, shape=(2, 1), **NPC),
    "MaxUnpool": Row("d = MaxUnpool<kernel_shape=[2, 2], strides=[2, 2]>(c, i)", init={"i": CORNERS}, **NO_SHIFT),
    "GridSample, varies over space": Row('d = GridSample<padding_mode="border">(c, q)', init={"q": random(2, 5, 4, 2, seed=5)}, shape=(5, 1), **NPC),
    "GridSample, zeros": Row("d = GridSample(c, q)", init={"q": random(2, 5, 4, 2, seed=5, low=-1.3, high=1.3)}, **NO_SHIFT),
    "GridSample, border": Row('d = GridSample<padding_mode="border">(c, q)', init={"q": random(2, 5, 4, 2, seed=5, low=-1.3, high=1.3)}),
    # space
    "Resize nearest": Row('d = Resize<mode="nearest">(c, , s)', init={"s": F32([1, 1, 2, 2])}),
    "Resize linear": Row('d = Resize<mode="linear", coordinate_transformation_mode="align_corners">(c, , s)', init={"s": F32([1, 1, 1.7, 0.6])}),
    "Resize cubic": Row('d = Resize<mode="cubic">(c, , s)', init={"s": F32([1, 1, 1.7, 2.6])}),
    "Resize cubic, exclude_outside": Row('d = Resize<mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5>(c, , s)', init={"s": F32([1, 1, 1.7, 2.6])}),
    "Resize antialias": Row('d = Resize<mode="linear", antialias=1>(c, , s)', init={"s": F32([1, 1, 0.5, 0.5])}, opset=18),
    "Resize to sizes": Row('d = Resize<mode="linear">(c, , , s)', init={"s": INT(2, 4, 9, 5)}),
    "Resize-18 on axes": Row('d = Resize<mode="linear", axes=[2, 3]>(c, , , s)', init={"s": INT(9, 5)}, opset=18),
    "Resize-10": Row('d = Resize<mode="nearest">(c, s)', init={"s": F32([1, 1, 2, 2])}, opset=10),
    "Resize of dynamic image": Row('d = Resize<mode="nearest">(c, , s)', init={"s": F32([1, 1, 2, 2])}, inputs="float[N,3,H,W] x", sizes={"H": 8, "W": 7}),
    "Resize of channels": Row('d = Resize<mode="nearest">(c, , s)', init={"s": F32([1, 2, 1, 1])}, shape=(8, 1, 1), **UNKNOWN),
    "Resize of channels by sizes": Row('d = Resize<mode="nearest">(c, , , s)', init={"s": INT(2, 8, 6, 6)}, shape=(8, 1, 1), **UNKNOWN),
    "Resize of channels, uniform": Row('d = Resize<mode="nearest">(c, , s)', init={"s": F32([1, 2, 1, 1])}, **UNIFORM),
    "Resize of 4 channels to 4": Row(
        'd = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(c, , s)', init={"s": F32([1, 1.2, 1, 1])}, **UNKNOWN),
    "Resize tf_crop_and_resize": Row(
        'd = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.0>(c, r, , s)',
        init={"r": F32([0, 0, -0.2, 0, 1, 1, 1.3, 1]), "s": INT(2, 4, 9, 9)}, positive="shift-blocked", mixed="shift-blocked", shift="shift-blocked"),
    "Upsample-7": Row('d = Upsample<mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]>(c)', opset=7),
    "Upsample-9": Row('d = Upsample<mode="linear">(c, s)', init={"s": F32([1, 1, 2, 2])}, opset=9),
    "Upsample of channels": Row('d = Upsample<mode="nearest">(c, s)', init={"s": F32([1, 2, 1, 1])}, shape=(8, 1, 1), opset=9, **UNKNOWN),
    "Pad zeros": Row("d = Pad(c, p)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}, **NO_SHIFT),
    "Pad zeros, uniform": Row("d = Pad(c, p)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}, **UNIFORM),
    "Pad 0.5": Row("d = Pad(c, p, v)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1), "v": F32(0.5)}, positive="shift-blocked", mixed="shift-blocked", shift="shift-blocked"),
    "Pad 0.5, uniform": Row("d = Pad(c, p, v)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1), "v": F32(0.5)}, **UNIFORM),
    "Pad, value of shape [1]": Row("d = Pad(c, p, v)", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1), "v": F32([0.5])}, **UNIFORM),
    "Pad -inf": Row("d = Pad(c, p, v) ", init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1), "v": F32(-np.inf)}, mixed="shift-blocked"),
    "Pad channels": Row("d = Pad(c, p)", init={"p": INT(0, 1, 0, 0, 0, 1, 0, 0)}, shape=(6, 1, 1), **NPC),
    "Pad channels, uniform": Row("d = Pad(c, p)", init={"p": INT(0, 1, 0, 0, 0, 1, 0, 0)}, **UNIFORM),
    "Pad crops": Row("d = Pad(c, p)", init={"p": INT(0, 0, -1, 0, 0, 0, 0, -2)}, **NO_SHIFT),
    "Pad reflect": Row('d = Pad<mode="reflect">(c, p)', init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}),
    "Pad edge": Row('d = Pad<mode="edge">(c, p)', init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}),
    "Pad wrap": Row('d = Pad<mode="wrap">(c, p)', init={"p": INT(0, 0, 1, 2, 0, 0, 2, 1)}, opset=19),
    "Pad-2": Row("d = Pad<pads=[0, 0, 1, 2, 0, 0, 2, 1], value=0.25>(c)", opset=10, **UNIFORM),
    "Pad-2, default value": Row("d = Pad<pads=[0, 0, 1, 2, 0, 0, 2, 1]>(c)", opset=7, **NO_SHIFT),
    "Pad-18 on axes": Row("d = Pad(c, p, , a)", init={"p": INT(1, 2, 0, 1), "a": INT(-1, 2)}, opset=18, **NO_SHIFT),
    "Pad-18 on axes, uniform": Row("d = Pad(c, p, v, a)", init={"p": INT(1, 2, 0, 1), "a": INT(-1, 2), "v": F32(1)}, opset=18, **UNIFORM),
    # several data inputs: h is a second Conv of the same shape
    "Add": Row("d = Add(c, h)"),
    "Sub": Row("d = Sub(c, h)"),
    "Sub, other way": Row("d = Sub(h, c)"),
    "Sum": Row("d = Sum(h, c)"),
    "Add of a constant map": Row("d = Add(c, q)", init={"q": random(4, 6, 6, seed=5)}),
    "Sub from a constant map": Row("d = Sub(q, c)", init={"q": random(1, 1, 6, 6, seed=5)}),
    "Mul by a constant map": Row("d = Mul(c, q)", init={"q": random(6, 6, seed=5)}, shift="shift-blocked"),
    "Div by a constant map": Row("d = Div(c, q)", init={"q": positive(6, 6, seed=5)}, shift="shift-blocked"),
    "Add of a gate": Row("p = GlobalAveragePool(h) d = Add(c, p)"),
    "Add of one channel": Row("p = ReduceMean<axes=[1]>(h) d = Add(c, p)", positive="branch", mixed="branch"),
    "Add of the input": Row("d = Add(c, z)", inputs="float[2,3,8,8] x, float[2,4,6,6] z", positive="no-absorber", mixed="no-absorber"),
    "Mul": Row("d = Mul(c, h)", **NO_SHIFT),
    "Div": Row("r = Exp(h) d = Div(c, r)", **NO_SHIFT),
    "Div, divisor only": Row("r = Exp(c) d = Div(z, r)", inputs="float[2,3,8,8] x, float[2,4,6,6] z", positive="no-absorber", mixed="no-absorber", shift="shift-blocked"),
    "squeeze-excite gate": Row("p = GlobalAveragePool(h) u = Sigmoid(p) d = Mul(u, c)", **NO_SHIFT),
    "gate on the input": Row("p = GlobalAveragePool(c) d = Mul(z, p)", inputs="float[2,3,8,8] x, float[2,4,6,6] z", **NO_SHIFT),
    "Concat of channels": Row("d = Concat<axis=1>(c, h)", shape=(8, 1, 1)),
    "Concat from behind": Row("d = Concat<axis=-3>(c, h)", shape=(8, 1, 1)),
    "Concat of rows": Row("d = Concat<axis=2>(c, h)"),
    "Concat of the batch": Row("d = Concat<axis=0>(c, h)"),
    "Concat with a constant": Row("d = Concat<axis=1>(q, c)", init={"q": random(2, 2, 6, 6, seed=6)}, shape=(6, 1, 1)),
    "Concat with the input": Row("d = Concat<axis=1>(c, z)", inputs="float[2,3,8,8] x, float[2,4,6,6] z", shape=(8, 1, 1), **STOP),
    "Concat of one tensor twice": Row("d = Concat<axis=1>(c, c)", shape=(8, 1, 1), positive="shared", mixed="shared", shift="shared"),
    "Expand": Row("d = Expand(c, s)", init={"s": INT(2, 4, 6, 6)}),
    "Expand to a higher rank": Row("d = Expand(c, s)", init={"s": INT(3, 2, 4, 6, 6)}),
    "Expand of a mean": Row("p = ReduceMean<axes=[1]>(c) d = Expand(p, s)", init={"s": INT(2, 4, 1, 1)}, positive="branch", mixed="branch", shift="branch"),
    "Tile": Row("d = Tile(c, s)", init={"s": INT(1, 1, 2, 2)}),
    "Max": Row("d = Max(c, h)", **NEGATIVE),
    "Min of three": Row("d = Min(c, q, h)", init={"q": random(4, 6, 6, seed=5)}, **NEGATIVE),
    "Max with the input": Row("d = Max(c, z)", inputs="float[2,3,8,8] x, float[2,4,6,6] z", positive="no-absorber", mixed="negative-scale", shift="no-absorber"),
    "Where": Row("b = Greater(h, q) d = Where(b, c, h)", init={"q": F32(0)}, **STOP),
}  # fmt: skip


def model_of(row, kind):
    size = int(np.prod(row.shape, dtype=int))
    magnitude = np.asarray(random(size, seed=61, low=0.5, high=1.5) if row.values is None else row.values, F32)
    scale = magnitude.copy()
    if kind == "mixed":
        scale[:: 2 if size > 1 else 1] *= -1
        if row.values is not None and row.values is not PAIRS:
            scale = magnitude * np.where(magnitude % 2 == 0, -1, 1).astype(F32)
    values = (scale if kind != "shift" else magnitude).reshape(row.shape)
    site = "y = Add(d, k)" if kind == "shift" else "y = Mul(d, k)"
    init = {"w": random(*row.weight), **row.init, "k": values}
    two = "h" in row.text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    if two:
        init["w2"] = random(*row.weight, seed=8)
    text = f"c = Conv(x, w) {'h = Conv(x, w2) ' if two else ''}{row.text} {site}"
    return build(text, row.inputs, row.outputs, init, opset=row.opset, ir=8 if row.opset > 8 else 3)


@pytest.mark.parametrize("kind", ["positive", "mixed", "shift"])
@pytest.mark.parametrize("name", ROWS)
def test_crossing(name, kind):
    row = ROWS[name]
    key = getattr(row, kind)
    model = model_of(row, kind)
    result = check(model, sizes=row.sizes)
    mine = [d for d in result.decisions if d.node == "y"]
    got = [d.code.split(".")[1] if "." in d.code else "" for d in mine]
    assert got == [key], [(d.node, d.code, d.message) for d in result.decisions]
    if not key:
        assert all(d.outcome == "applied" for d in mine)


# --- conditions about who else looks


def two_readers(text, outputs, **init):
    return build(
        f"c = Conv(x, w) {text}", outputs=outputs, init={"w": random(4, 3, 3, 3), "k": positive(4, 1, 1), **init}
    )


def test_max_pool_with_indices_in_use():
    text = "d, i = MaxPool<kernel_shape=[2, 2]>(c) y = Mul(d, k)"
    stays(two_readers(text, "y, i"), "shared")


def test_dropout_mask_in_use():
    stays(two_readers("d, i = Dropout(c) y = Mul(d, k)", "y, i"), "shared")


@pytest.mark.parametrize("mode", ["training", "unknown"])
def test_dropout_that_may_train(mode):
    if mode == "training":
        model = two_readers("d = Dropout(c, p, f) y = Mul(d, k)", "y", p=F32(0.0), f=np.array(True))
    else:
        model = build(
            "c = Conv(x, w) d = Dropout(c, p, f) y = Mul(d, k)", "float[2,3,8,8] x, bool f", "y",
            {"w": random(4, 3, 3, 3), "k": positive(4, 1, 1), "p": F32(0)},
        )  # fmt: skip
    stays(model, "training-mode")


def test_zero_scale_passes_a_relu_but_not_a_max_pool():
    zero = np.array([0, 1, 0, 2], F32).reshape(4, 1, 1)
    folds(two_readers("d = Relu(c) y = Mul(d, k)", "y", k=zero), ["Conv", "Relu"])
    stays(two_readers("d = MaxPool<kernel_shape=[2, 2]>(c) y = Mul(d, k)", "y", k=zero), "negative-scale")


def test_the_shift_goes_into_one_branch_and_the_scale_into_all():
    init = {"w": random(4, 3, 3, 3), "w2": random(4, 3, 3, 3, seed=1), **batch_norm(4)}
    result = folds(
        build("c = Conv(x, w) h = Conv(x, w2) d = Sub(c, h) y = BatchNormalization(d, g, b, m, v)", init=init),
        ["Conv", "Conv", "Sub"],
        exclusions=Exclusions({}, skip=("NF103",)),
    )
    biases = [node for node in result.model.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    assert len(biases) == 1


def test_a_gate_takes_the_scale_once():
    """apache/tvm#17151: one factor of a product takes the scale, not both."""
    init = {"w": random(4, 3, 3, 3), "w2": random(4, 3, 3, 3, seed=1), "k": positive(4, 1, 1)}
    result = folds(build("c = Conv(x, w) h = Conv(x, w2) d = Mul(c, h) y = Mul(d, k)", init=init))
    same = [
        np.array_equal(result.operand("Conv", 1), init["w"]),
        np.array_equal(result.array(result.model.graph.node[1].input[1]), init["w2"]),
    ]
    assert sorted(same) == [False, True]


def test_both_parts_of_a_split_take_their_own():
    init = {"w": random(5, 3, 3, 3), "s": INT(2, 3), **batch_norm(2), **batch_norm(3, prefix="q")}
    text = "p, q = Split<axis=1>(c, s) y = BatchNormalization(p, g, b, m, v) z = BatchNormalization(q, qg, qb, qm, qv)"
    folds(build(f"c = Conv(x, w) {text}", outputs="y, z", init=init), ["Conv", "Split"])


def test_split_and_concat_in_another_order():
    init = {"w": random(5, 3, 3, 3), "s": INT(2, 3), **batch_norm(5)}
    text = "p, q = Split<axis=1>(c, s) d = Concat<axis=1>(q, p) y = BatchNormalization(d, g, b, m, v)"
    folds(build(f"c = Conv(x, w) {text}", init=init), ["Conv", "Split", "Concat"])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_the_two_halves_of_one_conv(op):
    """Both branches end in the same weights."""
    init = {"w": random(6, 3, 3, 3), "k": positive(3, 1, 1), "t": random(3, 1, 1)}
    text = f"p, q = Split<axis=1>(c, s) d = {op}(p, q) y = Mul(d, k)"
    folds(build(f"c = Conv(x, w) {text}", init={**{n: init[n] for n in "wk"}, "s": INT(3, 3)}), ["Conv", "Split", op])


def test_a_part_that_is_also_read_elsewhere():
    init = {"w": random(4, 3, 3, 3), "s": INT(2, 2), **batch_norm(2)}
    text = "p, q = Split<axis=1>(c, s) y = BatchNormalization(p, g, b, m, v) z = Relu(p) u = Relu(q)"
    stays(build(f"c = Conv(x, w) {text}", outputs="y, z, u", init=init), "shared")


def test_slice_of_a_tensor_with_another_reader():
    init = {"w": random(4, 3, 3, 3), "a": INT(0), "e": INT(2), "i": INT(1), **batch_norm(2)}
    text = "p = Slice(c, a, e, i) y = BatchNormalization(p, g, b, m, v) z = Relu(c)"
    stays(build(f"c = Conv(x, w) {text}", outputs="y, z", init=init), "shared")


def test_float64_pad_and_clip_keep_their_precision():
    """Before opset 11 the bounds are float32 attributes; a float64 model must not be rounded to them."""
    init = {"w": random(5, 4, dtype=np.float64), "k": np.float64(1 / 3)}
    text = "c = MatMul(x, w) d = Pad<pads=[0, 1, 0, 1], value=0.5>(c) y = Mul(d, k)"
    check(build(text, "double[2,5] x", "double[2,6] y", init, opset=10))


def test_deep_chain_of_crossings():
    init = {"w": random(4, 3, 3, 3), "s": INT(0, 4, -1), "t": INT(0, 4, 3, 3), **batch_norm(4, sign=False)}
    text = (
        "a = Relu(c) p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a) r = Reshape(p, s) q = Transpose<perm=[0, 2, 1]>(r) "
        "u = Transpose<perm=[0, 2, 1]>(q) e = Reshape(u, t) i = Identity(e) y = Mul(i, k)"
    )
    init = {"w": init["w"], "s": init["s"], "t": init["t"], "k": positive(4, 1, 1)}
    folds(build(f"c = Conv(x, w) {text}", init=init))
