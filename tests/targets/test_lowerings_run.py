"""Lowerings on onnxruntime's CPU provider, its optimisation off, against float64; and what the standard's checker says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from normfold.model.dtypes import BFLOAT16, DOUBLE, FLOAT, FLOAT16, unit_roundoff
from normfold.norm.meaning import Norm, Surroundings
from normfold.targets.lower import Options, lower
from normfold.targets.lowering import Lowering
from normfold.targets.names import Target
from normfold.targets.standard import FIRST
from normfold.targets.tables import table_of
from tests.targets import norms
from tests.targets.cases import Case, cases, size
from tests.targets.emit import bare, feeds_of, model
from tests.targets.evaluate import definition

ONLY_STANDARD = (Target.PORTABLE, Target.TENSORRT, Target.OPENVINO)
GPU_ONLY = {"GroupNorm", "SkipGroupNorm"}
ORT_ONLY = {"SimplifiedLayerNormalization"}
# The inlined GroupNormalization and the Skip operators compute E[x²] - μ²: the mean squared is lost against the variance.
ONE_PASS = {"GroupNormalization", "SkipLayerNormalization"}


def run(made: onnx.ModelProto, case: Case) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds_of(made, case))[0]


def tolerance(case: Case, lowering: Lowering, wanted: np.ndarray) -> float:
    """What rounding explains, absolute.

    A kernel rounds x, its sums, the root and the affine in its own type (16-bit kernels in float32): some units of the
    largest number on the way, times the root of the length of the sums. Beside that every tensor between two nodes is
    rounded to its type: the result, and what comes before Mul and Add.
    """
    norm = case.norm
    types = {norm.input_type, norm.output_type}
    narrow = [unit_roundoff(t) for t in types if t in (FLOAT16, BFLOAT16)]
    inner = unit_roundoff(DOUBLE if norm.input_type == norm.output_type == norm.parameter_type == DOUBLE else FLOAT)
    scale = 1.0 if norm.gamma is None else np.abs(norm.gamma).max()
    scale = scale if norm.scale is None else np.abs(case.given[norm.scale]).max()
    largest = np.abs(wanted).max() + scale * np.sqrt(size(case))
    rows = case.x.std(axis=norm.axes) if norm.axes else np.array(1.0)
    spread = np.sqrt(rows.min() ** 2 + norm.epsilon)
    condition = 1.0 + np.abs(case.x).max() / max(spread, 0.05)
    lost = condition**2 if ONE_PASS & {node.op_type for node in lowering.nodes} else condition
    return float(largest * (4.0 * inner * lost * np.sqrt(size(case)) + sum(2.0 * u for u in narrow)))


def runnable(lowering: Lowering) -> bool:
    return not GPU_ONLY & {node.op_type for node in lowering.nodes}


@pytest.mark.parametrize("target", list(Target), ids=lambda t: t.value)
def test_lowerings_run_on_the_cpu(target: Target) -> None:
    """All of ort-cpu has a kernel; of other targets what the CPU provider has kernels for, which is most."""
    seen: Counter[bool] = Counter()

    @settings(max_examples=120)
    @given(case=cases())
    def each(case: Case) -> None:
        for lowering in lower(case.norm, target, case.options, case.around).lowerings:
            if not runnable(lowering) or lowering.takes_silu:
                continue
            wanted = definition(case.norm, case.x, case.given)
            try:
                found = run(model(lowering, case), case)
            except (NoKernel, InvalidGraph):
                assert target is not Target.ORT_CPU, lowering
                seen[False] += 1
                continue
            seen[True] += 1
            assert np.abs(found - wanted).max() <= tolerance(case, lowering, wanted), lowering

    each()
    assert seen[True] > 100
    assert seen[True] > 4 * seen[False]


@pytest.mark.parametrize("target", list(Target), ids=lambda t: t.value)
@settings(max_examples=60)
@given(case=cases())
def test_lowerings_are_valid(target: Target, case: Case) -> None:
    """In the versions that they say, and in no older one; types and shapes are those of the norm."""
    for lowering in lower(case.norm, target, case.options, case.around).lowerings:
        operators = {node.op_type for node in lowering.nodes}
        if lowering.domains or operators & ORT_ONLY:
            assert target not in ONLY_STANDARD
            continue
        assert lowering.opset >= FIRST
        written = max(lowering.opset, case.options.opset)
        check(lowering, case, written)
        check(lowering, case, lowering.opset)
        assert lowering.opset == FIRST or not is_valid(lowering, case, lowering.opset - 1)
        if lowering.valid_until is not None:
            assert written <= lowering.valid_until
            check(lowering, case, lowering.valid_until)
            assert not is_valid(lowering, case, lowering.valid_until + 1)


def check(lowering: Lowering, case: Case, opset: int) -> None:
    made = bare(lowering, case, opset)
    onnx.checker.check_model(made, full_check=True)
    if any(node.op_type == "GroupNormalization" for node in lowering.nodes):
        return  # onnx itself does not infer the type of its result
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    assert [d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim] == list(case.shape)


def is_valid(lowering: Lowering, case: Case, opset: int) -> bool:
    try:
        onnx.checker.check_model(bare(lowering, case, opset), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


@pytest.mark.parametrize("target", list(Target), ids=lambda t: t.value)
@settings(max_examples=80)
@given(case=cases())
def test_no_operator_without_a_kernel(target: Target, case: Case) -> None:
    table = table_of(target)
    for lowering in lower(case.norm, target, case.options, case.around).lowerings:
        opset = max(lowering.opset, case.options.opset)
        kernels = [table.kernel(node.op_type, node.domain) for node in lowering.nodes]
        for kernel in kernels:
            assert kernel is not None
            assert kernel.types
            assert not (case.options.precise and kernel.imprecise)
            assert kernel.newest is None or opset <= kernel.newest
        questions = {kernel.question for kernel in kernels if kernel is not None} - {""}
        assert set(lowering.marks) == questions


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "norm", [norms.group_norm(), norms.group_norm_last(), norms.layer_norm_2d(), norms.instance_norm()]
)
def test_an_empty_batch_stays_possible(norm: Norm, threads: int) -> None:
    shape = tuple(dim if isinstance(dim, int) else 0 for dim in norm.dims)
    case = Case(norm, shape, Options(17, threads), Surroundings(), x=np.zeros(shape))
    first = lower(norm, Target.ORT_CPU, case.options).lowerings[0]
    assert run(model(first, case), case).shape == shape
