"""Norm operators by definition, for the reference evaluator: in float64, statistics in two passes, rounded once at the end.

Inputs are numpy arrays of one floating type; γ and β are per channel or have the shape of the normalised axes.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from .definitions import MICROSOFT

_MVN_GUARD = 1e-9  # the function body of MeanVarianceNormalization adds it to the standard deviation


def _per_channel(values: Any, rank: int) -> Any:
    return np.reshape(values, (1, -1, *[1] * (rank - 2)))


def _standardise(x: Any, axes: Sequence[int], epsilon: float, *, centred: bool = True) -> tuple[Any, Any, Any]:
    """(x − mean) / √(V + ε), the mean and 1 / √(V + ε)."""
    mean = x.mean(tuple(axes), keepdims=True)
    deviation = x - mean if centred else x
    inverse = 1 / np.sqrt((deviation**2).mean(tuple(axes), keepdims=True) + epsilon)
    return deviation * inverse, mean, inverse


def _affine(normal: Any, scale: Any, bias: Any) -> Any:
    scaled = normal if scale is None else normal * scale
    return scaled if bias is None else scaled + bias


class _Norm(OpRun):
    """Float64 in, and results in the type that the input had: kernels of float16 norms compute wider than that as well."""

    def _run(self, *inputs, **attributes):
        wide = [value if value is None else np.asarray(value, np.float64) for value in inputs]
        with np.errstate(all="ignore"):
            found = self._define(*wide, **attributes)
        return tuple(value.astype(inputs[0].dtype) for value in found)

    def _define(self, *inputs, **attributes):
        raise NotImplementedError


class BatchNormalization(_Norm):
    """Inference form: γ·(x − μ)/√(v + ε) + β."""

    def _define(self, x, scale, bias, mean, var, epsilon=1e-5, training_mode=0, **_):
        if training_mode:
            raise NotImplementedError("BatchNormalization in training mode")
        gain, rest, mean, var = (_per_channel(v, x.ndim) for v in (scale, bias, mean, var))
        return (gain * (x - mean) / np.sqrt(var + epsilon) + rest,)


class LayerNormalization(_Norm):
    """Over the axes from `axis` on; mean and 1/σ as further outputs."""

    def _define(self, x, scale, bias=None, axis=-1, epsilon=1e-5, **_):
        normal, mean, inverse = _standardise(x, range(axis % x.ndim, x.ndim), epsilon)
        return (_affine(normal, scale, bias), mean, inverse)[: len(self.onnx_node.output)]


class RMSNormalization(_Norm):
    """x / √(mean(x²) + ε) · scale over the axes from `axis` on."""

    def _define(self, x, scale, axis=-1, epsilon=1e-5, **_):
        normal, _, inverse = _standardise(x, range(axis % x.ndim, x.ndim), epsilon, centred=False)
        return (_affine(normal, scale, None), inverse)[: len(self.onnx_node.output)]


class SimplifiedLayerNormalization(RMSNormalization):
    """What onnxruntime calls RMSNormalization, in the standard domain; its second output is 1/√(mean(x²) + ε)."""


class InstanceNormalization(_Norm):
    """Over all axes but the first two."""

    def _define(self, x, scale, bias, epsilon=1e-5, **_):
        normal, _, _ = _standardise(x, range(2, x.ndim), epsilon)
        return (_affine(normal, _per_channel(scale, x.ndim), _per_channel(bias, x.ndim)),)


class GroupNormalization(_Norm):
    """Statistics over (C/G, spatial); scale and bias per channel, or per group before opset 21."""

    def _define(self, x, scale, bias, epsilon=1e-5, num_groups=None, **_):
        normal = _standardise(x.reshape(x.shape[0], num_groups, -1), (2,), epsilon)[0].reshape(x.shape)
        repeat = x.shape[1] // scale.size
        gain, rest = (_per_channel(np.repeat(v, repeat), x.ndim) for v in (scale, bias))
        return (_affine(normal, gain, rest),)


class MeanVarianceNormalization(_Norm):
    """(x − mean) / (σ + 1e-9)."""

    def _define(self, x, axes=(0, 2, 3), **_):
        axes = tuple(int(axis) for axis in axes)
        deviation = x - x.mean(axes, keepdims=True)
        return (deviation / (np.sqrt((deviation**2).mean(axes, keepdims=True)) + _MVN_GUARD),)


class SkipLayerNormalization(_Norm):
    """LayerNormalization of input + skip (+ bias) over the last axis; outputs y, mean, 1/σ, the sum."""

    op_domain = MICROSOFT

    def _define(self, x, skip, gamma, beta=None, bias=None, epsilon=1e-12, **_):
        total = _affine(x + skip, None, bias)
        normal, mean, inverse = _standardise(total, (-1,), epsilon)
        return (_affine(normal, gamma, beta), mean, inverse, total)[: len(self.onnx_node.output)]


class SkipSimplifiedLayerNormalization(_Norm):
    """The same without mean and beta."""

    op_domain = MICROSOFT

    def _define(self, x, skip, gamma, bias=None, epsilon=1e-12, **_):
        total = _affine(x + skip, None, bias)
        normal, mean, inverse = _standardise(total, (-1,), epsilon, centred=False)
        return (_affine(normal, gamma, None), mean, inverse, total)[: len(self.onnx_node.output)]


def _grouped(x: Any, gamma: Any, beta: Any, groups: int, epsilon: float, last: int, activation: int) -> Any:
    first = np.moveaxis(x, -1, 1) if last else x
    normal = _standardise(first.reshape(first.shape[0], groups, -1), (2,), epsilon)[0].reshape(first.shape)
    y = _affine(normal, _per_channel(gamma, x.ndim), _per_channel(beta, x.ndim))
    y = y / (1 + np.exp(-y)) if activation else y
    return np.moveaxis(y, 1, -1) if last else y


class GroupNorm(_Norm):
    """GroupNormalization of onnxruntime: channels last unless said otherwise, SiLU behind it on request."""

    op_domain = MICROSOFT

    def _define(self, x, gamma, beta, groups=None, epsilon=1e-5, activation=0, channels_last=1, **_):
        return (_grouped(x, gamma, beta, groups, epsilon, channels_last, activation),)


class SkipGroupNorm(_Norm):
    """GroupNorm of x + skip (+ bias); skip is like x, [N, C] or 1 along space; outputs y and the sum."""

    op_domain = MICROSOFT

    def _define(self, x, gamma, beta, skip, bias=None, groups=None, epsilon=1e-5, activation=0, channels_last=1, **_):
        channels = -1 if channels_last else 1
        if skip.ndim == 2:
            space = tuple(range(1, x.ndim - 1)) if channels_last else tuple(range(2, x.ndim))
            skip = np.expand_dims(skip, space)
        total = x + skip
        if bias is not None:
            total = total + np.moveaxis(bias.reshape(*[1] * (x.ndim - 1), -1), -1, channels)
        y = _grouped(total, gamma, beta, groups, epsilon, channels_last, activation)
        return (y, total)[: len(self.onnx_node.output)]


DEFINED: list[type[OpRun]] = [
    BatchNormalization,
    LayerNormalization,
    RMSNormalization,
    SimplifiedLayerNormalization,
    InstanceNormalization,
    GroupNormalization,
    MeanVarianceNormalization,
    SkipLayerNormalization,
    SkipSimplifiedLayerNormalization,
    GroupNorm,
    SkipGroupNorm,
]
