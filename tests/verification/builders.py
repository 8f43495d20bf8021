"""Regions and nets built in code: a Conv + BatchNormalization, its correct fold, and folds with planted bugs."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from normfold.verification import Region


def model(nodes, inputs, outputs, weights, *, opset=17, elem=TensorProto.FLOAT):
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    tensors = [
        numpy_helper.from_array(np.asarray(v, dtype if np.asarray(v).dtype.kind == "f" else None), k)
        for k, v in weights.items()
    ]

    def info(entry):
        return (
            entry if isinstance(entry, onnx.ValueInfoProto) else helper.make_tensor_value_info(entry[0], elem, entry[1])
        )

    graph = helper.make_graph(nodes, "g", [info(i) for i in inputs], [info(o) for o in outputs], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


class ConvBN:
    """The numbers of one Conv + BN, all float64; `fold` gives the folded weights, `bug` plants one mistake."""

    def __init__(self, seed=0, cin=8, cout=8, k=3, group=1, var=1.0, mean=0.5, eps=1e-5, elem=TensorProto.FLOAT):
        rng = np.random.default_rng(seed)
        self.elem, self.group, self.eps, self.k = elem, group, float(np.float32(eps)), k  # attributes are float32
        dtype = helper.tensor_dtype_to_np_dtype(elem)

        def stored(values):
            return values.astype(dtype).astype(np.float64)

        fan = cin // group * k * k
        self.W = stored(rng.standard_normal((cout, cin // group, k, k)) / np.sqrt(fan))
        self.b = stored(rng.standard_normal(cout) * 0.1 + mean)
        self.gamma = stored(rng.uniform(0.5, 1.5, cout))
        self.beta = stored(rng.standard_normal(cout))
        self.mean = stored(self.b + rng.standard_normal(cout) * 0.1)
        self.var = stored(rng.uniform(0.5, 1.5, cout) * var)

    def fold(self, bug=""):
        eps = 1e-3 if bug == "epsilon" else self.eps
        scale = self.gamma / np.sqrt(self.var + eps)
        W = self.W * scale[:, None, None, None]
        b = (self.b - (0 if bug == "mean" else self.mean)) * scale + self.beta
        if bug == "swap":
            W[[0, 1]], b[[0, 1]] = W[[1, 0]], b[[1, 0]]
        return W, b

    def before(self, x, y, prefix=""):
        names = [prefix + n for n in ("W", "b", "gamma", "beta", "mean", "var")]
        values = (self.W, self.b, self.gamma, self.beta, self.mean, self.var)
        conv = helper.make_node("Conv", [x, *names[:2]], [prefix + "c"], pads=[self.k // 2] * 4, group=self.group)
        norm = helper.make_node("BatchNormalization", [prefix + "c", *names[2:]], [y], epsilon=self.eps)
        return [conv, norm], dict(zip(names, values, strict=True))

    def after(self, x, y, prefix="", bug=""):
        W, b = self.fold(bug)
        group = 1 if bug == "group" else self.group
        if bug == "group":  # the grouped weights spread as if every group read the first channels
            W = np.concatenate([W, np.zeros((W.shape[0], W.shape[1] * (self.group - 1), *W.shape[2:]))], 1)
        node = helper.make_node("Conv", [x, prefix + "Wf", prefix + "bf"], [y], pads=[self.k // 2] * 4, group=group)
        return [node], {prefix + "Wf": W, prefix + "bf": b}

    def region(self, bug="", dims=("N", None, "H", "W"), name="e"):
        dims = list(dims)
        dims[1] = self.W.shape[1] * self.group
        io = [("x", dims)], [("y", ["N", self.W.shape[0], None, None])]
        (n0, w0), (n1, w1) = self.before("x", "y"), self.after("x", "y", bug=bug)
        return Region((name,), model(n0, *io, w0, elem=self.elem), model(n1, *io, w1, elem=self.elem))


def net(depth, *, folded=False, bug_at=None, channels=8, dims=("N", 8, "H", "W"), seed=0, head="dense"):
    """`depth` residual-free layers of Conv + BN + Relu whose running statistics fit N(0, 1) inputs.

    `bug_at` gives one layer a wrong epsilon; `head` is "dense" (the last feature map) or "argmax".
    """
    nodes, weights, x = [], {}, "x"
    for i, layer in enumerate(layers(depth, channels, seed)):
        y = f"n{i}"
        if folded:
            more, values = layer.after(x, y, f"l{i}.", "epsilon" if i == bug_at else "")
        else:
            more, values = layer.before(x, y, f"l{i}.")
        nodes += [*more, helper.make_node("Relu", [y], [f"r{i}"])]
        weights.update(values)
        x = f"r{i}"
    outputs = [("y", [dims[0], channels, None, None])]
    if head == "argmax":
        nodes.append(helper.make_node("ArgMax", [x], ["y"], axis=1, keepdims=0))
        outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, [dims[0], None, None])]
    else:
        nodes.append(helper.make_node("Identity", [x], ["y"]))
    return model(nodes, [("x", list(dims))], outputs, weights)


@functools.cache
def layers(depth, channels, seed):
    """The layers of `net`, each with the statistics of what reaches it."""
    rng = np.random.default_rng(seed)
    x, found = rng.standard_normal((4, channels, 16, 15)), []
    for i in range(depth):
        layer = ConvBN(seed + i, channels, channels)
        y = conv(x, layer.W) + layer.b[:, None, None]
        layer.mean, layer.var = (f(y, axis=(0, 2, 3)).astype(np.float32).astype(float) for f in (np.mean, np.var))
        W, b = layer.fold()
        x = np.maximum(conv(x, W) + b[:, None, None], 0)
        found.append(layer)
    return tuple(found)


def conv(x, W):
    """A 3 × 3 convolution with one pixel of padding, by hand."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, W, optimize=True)
