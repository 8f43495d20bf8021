"""One operator, or a few, evaluated by normfold and by somebody else."""

from __future__ import annotations

import numpy as np
from onnx import helper
from onnx.reference import ReferenceEvaluator

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.norm.evaluate import Evaluator
from tests.model.build import net, run

MICROSOFT = "com.microsoft"


def model_of(nodes, feeds, outputs, weights=None, opset=17, domains=()):
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype), np.shape(v))
        for name, v in feeds.items()
    ]
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]  # of any type
    return net(nodes, infos, ends, weights, opset=opset, domains=domains)


def evaluated(model, feeds, outputs, given=None):
    """What normfold's evaluator makes of named values."""
    values = load(model).graph.values
    arrays = {values[name]: np.asarray(v) for name, v in (given or feeds).items()}
    return Evaluator(Constants()).run([values[name] for name in outputs], arrays)


def referenced(model, feeds):
    """What the reference implementation of the standard makes of the outputs."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


def agree(mine, wanted, rtol=1e-12, atol=1e-12):
    assert len(mine) == len(wanted)
    for got, want in zip(mine, wanted, strict=True):
        want = np.asarray(want)
        assert got.shape == want.shape
        assert got.dtype.kind == want.dtype.kind
        assert got.dtype in (np.float64, np.int64, np.bool_)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(got, want)


def same(nodes, feeds, outputs=("y",), weights=None, opset=17, **tolerance):
    """The evaluator agrees with the reference implementation; float64 in, float64 out."""
    model = model_of(nodes, feeds, list(outputs), weights, opset)
    agree(evaluated(model, feeds, outputs), referenced(model, feeds), **tolerance)


def same_as_runtime(nodes, feeds, outputs=("y",), weights=None, opset=17, domains=(), rtol=2e-5, atol=2e-5):
    """The evaluator agrees with onnxruntime, its optimisations off; float32 there."""
    model = model_of(nodes, feeds, list(outputs), weights, opset, domains)
    agree(evaluated(model, feeds, outputs), run(model, feeds, list(outputs)), rtol=rtol, atol=atol)
