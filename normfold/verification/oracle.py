"""Float64 evaluation of a region's definition, in numpy.

The reference evaluator of onnx does the plain operators. Its BatchNormalization blends in batch statistics at opsets
9 to 13, and the normalisation functions would run their one-pass bodies, so those are given here by definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from .precision import recast
from .verdicts import Array


class OracleError(Exception):
    """This region cannot be evaluated in float64."""


def evaluate(model: onnx.ModelProto, trials: list[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Return the outputs of `model` per trial, floats as float64.

    Raises:
        OracleError: an operator without a definition here, or shapes that do not fit.
    """
    try:
        session = ReferenceEvaluator(recast(model, TensorProto.DOUBLE), new_ops=_DEFINITIONS)
        names = [output.name for output in model.graph.output]
        with np.errstate(all="ignore"):
            return [_named(names, session.run(None, _widen(feeds))) for feeds in trials]
    except Exception as error:  # the evaluator raises whatever numpy raises
        raise OracleError(f"{type(error).__name__}: {error}") from error


def _named(names: list[str], values: Any) -> dict[str, Array]:
    return dict(zip(names, values, strict=True))


def _widen(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value.astype(np.float64) if _is_float(value) else value for name, value in feeds.items()}


def _is_float(value: Array) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _per_channel(values: Any, rank: int) -> Any:
    return np.reshape(values, (1, -1, *[1] * (rank - 2)))


class BatchNormalization(OpRun):
    """Inference form: γ·(x − μ)/√(v + ε) + β."""

    def _run(self, x, scale, bias, mean, var, epsilon=1e-5, training_mode=0, **_):  # type: ignore[no-untyped-def]
        if training_mode:
            raise NotImplementedError("BatchNormalization in training mode")
        gain, rest, mean, var = (_per_channel(v, x.ndim) for v in (scale, bias, mean, var))
        return (gain * (x - mean) / np.sqrt(var + epsilon) + rest,)


class GroupNormalization(OpRun):
    """Two-pass statistics over (C/G, spatial); scale and bias per channel, or per group before opset 21."""

    def _run(self, x, scale, bias, epsilon=1e-5, num_groups=None, **_):  # type: ignore[no-untyped-def]
        view = x.reshape(x.shape[0], num_groups, -1)
        centred = view - view.mean(-1, keepdims=True)
        normal = (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)).reshape(x.shape)
        repeat = x.shape[1] // scale.size
        gain, rest = (_per_channel(np.repeat(v, repeat), x.ndim) for v in (scale, bias))
        return (gain * normal + rest,)


class RMSNormalization(OpRun):
    """x / √(mean(x²) + ε) · scale over the axes from `axis` on."""

    def _run(self, x, scale, axis=-1, epsilon=1e-5, **_):  # type: ignore[no-untyped-def]
        axes = tuple(range(axis % x.ndim, x.ndim))
        return (x / np.sqrt((x**2).mean(axes, keepdims=True) + epsilon) * scale,)


_DEFINITIONS = [BatchNormalization, GroupNormalization, RMSNormalization]
