"""Repairing a folded model gives what folding the right statistics would have given, whichever operators took them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper

import normfold
from normfold import Config
from normfold.errors import InputError
from normfold.recalibration import recalibrate
from normfold.statistics.folded.finding import find_manifest
from normfold.statistics.folded.records import Records
from normfold.statistics.subject import open_subject
from normfold.undoing import undo
from tests.check.networks import images
from tests.check.sources import batches
from tests.model.build import actual, net, node

X = images(320)
USED = np.concatenate(
    [part for i, part in enumerate(np.split(X, 20)) if i % 4 != 3]
)  # of batches of 16, what is not held out
FEED = {"x": images(8, seed=9)}
C = 6


@dataclass(frozen=True)
class Forward:
    """Conv, Relu, a BatchNormalization that only what is behind it can take, and that.

    Args:
        behind: reads "n", makes "y".
        weights: of it.
        flat: the normalisation is one of vectors.
    """

    behind: Sequence[NodeProto]
    weights: dict[str, np.ndarray]
    flat: bool = False

    def model(self, mean: np.ndarray, var: np.ndarray) -> ModelProto:
        rng = np.random.default_rng(3)
        weights = {
            "w0": (rng.normal(size=(C, 3, 3, 3)) * 0.4).astype(np.float32),
            "gamma": np.array([0.7, -1.1, 0.0, 1.3, 0.9, 0.4], np.float32),  # one channel does not see its input
            "beta": rng.normal(size=C).astype(np.float32),
            "mean": mean.astype(np.float32),
            "var": var.astype(np.float32),
            **self.weights,
        }
        x = "p" if self.flat else "r"
        nodes = [
            node("Conv", ["x", "w0"], ["c"]),
            node("Relu", ["c"], ["r"]),
            *([node("ReduceMean", ["r"], ["p"], axes=[2, 3], keepdims=0)] if self.flat else []),
            node("BatchNormalization", [x, "gamma", "beta", "mean", "var"], ["n"], name="bn"),
            *self.behind,
        ]
        output = helper.make_empty_tensor_value_info("y")
        return net(nodes, {"x": ["N", 3, 8, 8]}, [output], weights)

    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Statistics of the data that is estimated on."""
        name = "p" if self.flat else "r"
        values = actual(self.model(np.zeros(C), np.ones(C)), {"x": USED}, [name])[name].astype(np.float64)
        axes = (0,) if self.flat else (0, 2, 3)
        return values.mean(axes), values.var(axes)


def drawn(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).normal(size=shape) / 3).astype(np.float32)


CASES = {
    "conv": Forward([node("Conv", ["n", "w1", "b1"], ["y"])], {"w1": drawn(4, C, 3, 3), "b1": drawn(4)}),
    "skip": Forward(
        [node("Conv", ["n", "w1"], ["d"]), node("Relu", ["d"], ["e"]), node("Add", ["e", "r"], ["y"])],
        {"w1": drawn(C, C, 1, 1)},
    ),
    "two readers": Forward(
        [node("Conv", ["n", "w1"], ["d"]), node("Conv", ["n", "w2"], ["e"]), node("Mul", ["d", "e"], ["y"])],
        {"w1": drawn(4, C, 1, 1), "w2": drawn(4, C, 1, 1)},
    ),
    "transposed": Forward([node("ConvTranspose", ["n", "w1"], ["y"], pads=[1, 1, 1, 1])], {"w1": drawn(C, 4, 2, 2)}),
    "pool": Forward(
        [node("AveragePool", ["n"], ["d"], kernel_shape=[2, 2]), node("Conv", ["d", "w1"], ["y"])],
        {"w1": drawn(4, C, 1, 1)},
    ),
    "gemm": Forward([node("Gemm", ["n", "w1", "b1"], ["y"])], {"w1": drawn(C, 4), "b1": drawn(4)}, flat=True),
    "matmul": Forward([node("MatMul", ["n", "w1"], ["y"])], {"w1": drawn(C, 4)}, flat=True),
}  # fmt: skip


def folded(model: ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "m.onnx")
    normfold.optimize(folder / "m.onnx", folder / "folded.onnx", config=Config(verify="off"))
    return folder / "folded.onnx"


def manifest_of(path: Path) -> Records:
    records = find_manifest(open_subject(path).original)
    assert records is not None
    return records


@pytest.mark.parametrize("name", CASES)
def test_what_was_folded_into_what_is_behind_is_repaired_there(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = folded(case.model(np.full(C, 0.5), np.linspace(0.5, 4, C)), tmp_path)
    before = path.read_bytes()
    (record,) = manifest_of(path).records
    assert record.side == "input" and not any(n.op_type == "BatchNormalization" for n in onnx.load(path).graph.node)
    done = recalibrate(path, tmp_path / "new.onnx", data=batches(X))
    assert [layer.status for layer in done.report.layers] == ["repaired"]
    mean, var = case.fitted()
    repaired = actual(onnx.load(tmp_path / "new.onnx"), FEED, ["y"])["y"]
    wanted = actual(case.model(mean, var), FEED, ["y"])["y"]
    assert np.abs(actual(onnx.load(path), FEED, ["y"])["y"] - wanted).max() > 0.1
    np.testing.assert_allclose(repaired, wanted, rtol=1e-4, atol=1e-5)
    (record,) = manifest_of(tmp_path / "new.onnx").records  # the new one says what the weights hold now
    np.testing.assert_allclose(record.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(record.var, var, rtol=1e-5)
    assert done.undo is not None
    undo(tmp_path / "new.onnx", done.undo, tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == before


def refusal(path: Path, model: ModelProto | None = None) -> str:
    """What `recalibrate` says in one line; it writes nothing."""
    if model is not None:
        onnx.save(model, path)
    before = sorted(path.parent.iterdir())
    with pytest.raises(InputError) as caught:
        recalibrate(path, path.with_name("new.onnx"), data=batches(X))
    assert caught.value.code == "recalibrate.nothing" and "\n" not in str(caught.value)
    assert sorted(path.parent.iterdir()) == before
    return str(caught.value)


def test_a_shift_across_zero_padding_is_refused(tmp_path: Path) -> None:
    """Before, the normalisation had no shift, so that it could go into a convolution that pads with zeros."""
    own = {
        "w1": drawn(4, C, 3, 3),
        "gamma": np.linspace(-1.5, 1.2, C, dtype=np.float32),
        "beta": np.zeros(C, np.float32),
    }
    case = Forward([node("Conv", ["n", "w1"], ["y"], pads=[1, 1, 1, 1])], own)
    path = folded(case.model(np.zeros(C), np.linspace(0.5, 4, C)), tmp_path)
    assert manifest_of(path).records[0].side == "input"
    assert "its weights cannot be changed: " in refusal(path)


def test_what_was_merged_with_its_reader_says_so(tmp_path: Path) -> None:
    """A convolution beside a shortcut: both became one operator."""
    case = Forward([node("Conv", ["n", "w1"], ["d"]), node("Add", ["d", "r"], ["y"])], {"w1": drawn(C, C, 1, 1)})
    path = folded(case.model(np.full(C, 0.5), np.full(C, 2.0)), tmp_path)
    said = refusal(path)
    assert "what read it was folded or merged as well: recalibrate the original model and fold it again" in said


def test_a_model_that_was_changed_since_says_so(tmp_path: Path) -> None:
    path = folded(CASES["conv"].model(np.full(C, 0.5), np.full(C, 2.0)), tmp_path)
    model = onnx.load(path)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "other"
    assert "the model was changed since it was folded" in refusal(path, model)
