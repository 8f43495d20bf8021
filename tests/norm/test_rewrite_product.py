"""Spellings of the product through the planner: right on every target, valid, and a fixed point."""

from __future__ import annotations

import os

import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from normfold.targets.names import Target
from tests.model.build import run
from tests.norm.product import build, pairwise
from tests.norm.rewriting import RUNNABLE, assert_close, exact, feed, stable

PAIRS = pairwise()
SHARE = 1 if os.environ.get("NORMFOLD_SLOW_TESTS") else 6
TOLERANCE = {"fp32": 3e-5, "fp16": 3e-2, "fp64": 3e-5}  # the float16 originals lose that much themselves
CHECKED = (Target.PORTABLE, Target.TENSORRT, Target.OPENVINO)
SIZES = {"batch": 2, "length": 3}


@pytest.mark.parametrize(("target", "threads"), [*((target, None) for target in Target), (Target.ORT_CPU, 1)])
def test_right_valid_and_a_fixed_point(target, threads):
    rewritten = compared = 0
    for spelling in PAIRS[::SHARE]:
        model, _ = build(spelling)
        result, plan = stable(model, target, threads)
        rewritten += len(plan.norms)
        if target in CHECKED:
            onnx.checker.check_model(result, full_check=True)
        if target not in RUNNABLE or spelling.kind == "bf16":
            continue
        feeds = feed(model, SIZES)
        if not _runs(model, feeds):
            continue
        compared += 1
        assert_close(run(result, feeds), exact(model, feeds), TOLERANCE[spelling.kind])
    assert rewritten >= len(PAIRS[::SHARE]) // 3
    assert target not in RUNNABLE or compared >= len(PAIRS[::SHARE]) // 3


def _runs(model, feeds):
    """Whether onnxruntime has a kernel for every operator of the original, in its type."""
    try:
        run(model, feeds)
    except NotImplemented_:
        return False
    return True


def test_the_result_is_the_same_every_time():
    for spelling in PAIRS[:: 8 * SHARE]:
        model, _ = build(spelling)
        first, second = (stable(model, Target.ORT_CPU)[0] for _ in range(2))
        assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
