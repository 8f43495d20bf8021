"""Models through the planner for a target, without verification, so that it cannot hide a mistake."""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import ModelProto, helper

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.write import to_bytes
from normfold.norm.evaluate import Evaluator
from normfold.surgery.apply import apply
from normfold.surgery.everything import Wishes, plan_everything
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target

# What onnxruntime executes on the CPU; the others write operators that it has on other devices only.
RUNNABLE = (Target.PORTABLE, Target.ORT_CPU, Target.OPENVINO)


def rewritten(model, target=Target.PORTABLE, threads=None):
    """The result and the plan."""
    loaded = load(model)
    planned = plan_everything(loaded, Exclusions({}), Wishes(target, threads))
    return ModelProto.FromString(to_bytes(apply(planned.model, planned.plan, {}))), planned.plan


def stable(model, target=Target.PORTABLE, threads=None):
    """The result, of which a second run must leave every byte."""
    result, plan = rewritten(model, target, threads)
    again, second = rewritten(result, target, threads)
    assert not second.edits, f"{target.value}: {[e.id for e in second.edits]} in the second run"
    assert not second.norms, f"{target.value}: {[d.message for d in second.decisions]} in the second run"
    assert again == result
    return result, plan


def codes(plan, rule="NF202"):
    """The codes of a rule, in order."""
    return [d.code for d in plan.decisions if d.rule == rule]


def operators(model):
    """How often each operator occurs in the main graph, Constants left out."""
    return Counter(item.op_type for item in model.graph.node if item.op_type != "Constant")


def feed(model, sizes, *, mean=0.3, spread=1.2, seed=0):
    """Ordinary numbers for the inputs that are no initializers."""
    rng = np.random.default_rng(seed)
    stored = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for info in model.graph.input:
        if info.name in stored:
            continue
        dims = [d.dim_value or sizes[d.dim_param] for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        found[info.name] = rng.normal(mean, spread, dims).astype(dtype)
    return found


def exact(model, feeds):
    """The outputs in float64, by normfold's own evaluator."""
    values = load(model).graph.values
    given = {values[name]: array.astype(np.float64) for name, array in feeds.items()}
    return Evaluator(Constants()).run([values[info.name] for info in model.graph.output], given)


def assert_close(got, wanted, tolerance):
    """Every output within a tolerance, relative to its largest number; what is undefined must be so on both sides."""
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.shape == theirs.shape
        mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
        known = np.isfinite(theirs)
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs))
        size = max(1.0, float(np.abs(theirs[known]).max(initial=0)))
        error = np.abs(mine[known] - theirs[known]).max(initial=0) / size
        assert error <= tolerance, f"off by {error:.3g}"
