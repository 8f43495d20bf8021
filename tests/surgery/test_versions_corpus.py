"""Models that nobody in this project wrote, raised: they stay valid, and compute the same.

The corpus lies beside the repository and is not part of it; without it these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from normfold.affine.reasons import Refused
from normfold.surgery.versions.table import OLDEST
from tests.support import Runner, feeds, operators
from tests.surgery.raising import assert_same_bits, raised

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"

pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus does not lie beside this checkout")

INVALID = "gpt2_past"  # two nodes produce one value
SLOW = ("starrem_model", "fns-candy")  # one forward pass takes many seconds
# Reasons to stay: an attribute that no LayerNormalization has, and an operator that onnxruntime has up to opset 9.
REFUSED = ("has an attribute 'epsion'", "ImageScaler")
# onnxruntime's AveragePool of opset 19 and later adds up in another order; a unit of rounding grows on its way.
OTHER_KERNEL = ("AveragePool", 19)
ROUNDING = 1e-5


def _opset(path: Path) -> int:
    model = onnx.load(path, load_external_data=False)
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


OLD = [path for path in sorted(CORPUS.glob("**/*.onnx")) if path.stem != INVALID and OLDEST <= _opset(path) < 17]


def _outputs(model: ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return Runner(model).run(feed)


def _feed(model: ModelProto) -> dict[str, np.ndarray] | None:
    """Inputs that the original takes; None if it takes none that are made up."""
    try:
        values = feeds(model, seed=1)[0]
    except ValueError:
        return None  # it declares a negative dimension
    zeros = {name: np.zeros_like(value) if value.dtype.kind in "iu" else value for name, value in values.items()}
    for feed in (values, zeros):
        try:
            _outputs(model, feed)
        except Exception:
            continue
        return feed
    return None


def _is_valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def _compare(model: ModelProto, wanted: int, feed: dict[str, np.ndarray], before: list[np.ndarray]) -> None:
    result = raised(model, wanted)
    if _is_valid(model):
        onnx.checker.check_model(result)
    op_type, since = OTHER_KERNEL
    rounding = ROUNDING if wanted >= since and op_type in operators(model) else 0
    for info, a, b in zip(model.graph.output, before, _outputs(result, feed), strict=True):
        if rounding:
            np.testing.assert_allclose(b, a, rtol=0, atol=rounding * float(np.abs(a).max()), err_msg=info.name)
        else:
            assert_same_bits(a, b, info.name)


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_raised(path: Path) -> None:
    model = onnx.load(path)
    feed = None if path.stem in SLOW else _feed(model)
    before = None if feed is None else _outputs(model, feed)
    for wanted in (17, 21):
        try:
            if feed is not None and before is not None:
                _compare(model, wanted, feed, before)
            else:
                result = raised(model, wanted)
                assert not _is_valid(model) or _is_valid(result)
        except Refused as refused:
            assert any(part in refused.message for part in REFUSED), refused.message


def test_the_corpus_is_there() -> None:
    assert len(OLD) > 100
