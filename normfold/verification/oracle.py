"""Float64 evaluation of a region's definition, in numpy, in the child process.

The reference evaluator of onnx does the plain operators. Its BatchNormalization blends in batch statistics at opsets
9 to 13, the normalisation functions would run their one-pass bodies, and it does not know the operators of onnxruntime;
`oracle_norms` gives all of those by definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from . import native
from .precision import recast
from .verdicts import Array


class OracleError(Exception):
    """This region cannot be evaluated in float64."""


def evaluate(model: onnx.ModelProto, trials: list[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Return the outputs of `model` per trial, floats as float64.

    Raises:
        OracleError: an operator without a definition here, or shapes that do not fit.
    """
    return _run(recast(model, TensorProto.DOUBLE), [_widen(feeds) for feeds in trials])


def _run(model: onnx.ModelProto, trials: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    try:
        return native.evaluate(model, trials)
    except native.EvaluationError as error:
        raise OracleError(str(error)) from error


def _widen(feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value.astype(np.float64) if _is_float(value) else value for name, value in feeds.items()}


def _is_float(value: Array) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def literally(model: onnx.ModelProto, trials: list[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """Return the outputs of `model` per trial, every operator rounded to the type that it is stored in.

    A runtime without float16 arithmetic computes a chain of operators in float32 and hides what overflows in between.

    Raises:
        OracleError: as in `evaluate`.
    """
    return _run(model, trials)
