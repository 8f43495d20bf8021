"""A shift in front of a norm that takes one mean of it vanishes: right, and right even where float64 cannot see the input."""

import numpy as np
import onnx
import pytest

import normfold
from normfold import Config
from normfold.targets.names import Target
from normfold.verification import Status, VerifyOptions, verify_regions
from tests.surgery.norm_models import IMAGE, C, G, Sheet

from .norm_builders import F16, F32, F64, Graph, region

UNIT = {F32: 2.0**-24, F16: 2.0**-11, F64: 2.0**-53}
EXTENTS = (4, 5)
K = C // G * EXTENTS[0] * EXTENTS[1]


def grouped(elem: int, *, shift: float = 0.0, beta: float = 0.0) -> onnx.ModelProto:
    """The core of a GroupNorm, of `x + shift` per group, with a bias on top of the normalised value."""
    graph = Graph(elem=elem)
    x = (
        graph.op("Add", "x", graph.const(np.repeat([shift, 0.9 * shift, -shift], C // G).reshape(C, 1, 1)))
        if shift
        else "x"
    )
    view = graph.op("Reshape", x, graph.const([0, G, K]))
    made = graph.op("InstanceNormalization", view, graph.const(np.ones(G)), graph.const(np.full(G, beta)), epsilon=1e-5)
    return graph.model({"x": ["N", C, *EXTENTS]}, made)


def tolerance(elem: int, shift: float) -> float:
    """`max(16, 2√K)·u·(A + A₀)` of the largest element of an ordinary input, `A = (|x| + mean|x|) / √V`."""
    x = np.random.default_rng(0).standard_normal((64, K))
    magnitude = sum((np.abs(v) + np.abs(v).mean(-1, keepdims=True)) / x.std(-1, keepdims=True) for v in (x, x + shift))
    return float(max(16, 2 * np.sqrt(K)) * UNIT[elem] * magnitude.max())


@pytest.mark.parametrize("elem", [F32, F16, F64])
@pytest.mark.parametrize("shift", [0.5, 30.0])
def test_a_shift_per_group_vanishes(elem: int, shift: float) -> None:
    (verdict,) = verify_regions([region(grouped(elem, shift=shift), grouped(elem))], VerifyOptions())
    assert verdict.status.passed, verdict


@pytest.mark.parametrize("elem", [F32, F16])
@pytest.mark.parametrize("shift", [0.5, 30.0])
def test_a_result_that_is_off_by_twice_the_tolerance_fails(elem: int, shift: float) -> None:
    wrong = grouped(elem, beta=2 * tolerance(elem, shift))
    (verdict,) = verify_regions([region(grouped(elem, shift=shift), wrong)], VerifyOptions())
    assert verdict.status is Status.FAIL


def test_the_shift_is_folded_and_verified() -> None:
    sheet = Sheet(21)
    sheet.init = {
        "t": np.repeat(np.float32([0.8, 0.7, -0.4]), C // G).reshape(C, 1, 1),
        "g": np.linspace(0.5, 2, C, dtype=np.float32),
        "b": np.linspace(-1, 1, C, dtype=np.float32),
    }
    sheet.add("f = Add(x, t)", f"n = GroupNormalization<num_groups = {G}, epsilon = 1e-5>(f, g, b)", "y = Relu(n)")
    report = normfold.optimize(sheet.model(IMAGE), config=Config(target=Target.PORTABLE)).report
    assert {d.node: d.code for d in report.decisions}["f"] == "NF102"
    assert not report.dropped
