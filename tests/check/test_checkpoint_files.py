"""Checkpoints as people have them: wrapped, prefixed, averaged, incomplete, of another model, damaged, or out to run code."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from normfold.errors import InputError
from normfold.statistics.checkpoint.reading import read_checkpoint
from normfold.statistics.part import Part
from normfold.statistics.subject import open_subject
from normfold.statistics.with_checkpoint import with_checkpoint
from tests.check.test_checkpoint import NET, renamed, safetensors, state


def against(arrays: dict[str, np.ndarray], tmp_path: Path, *, names: bool = True) -> Part:
    """The fitted network, with the names of a checkpoint or without, against this one."""
    model = renamed() if names else NET.model()
    return with_checkpoint(open_subject(model), safetensors(arrays, tmp_path / "w.safetensors"))


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        with_checkpoint(open_subject(NET.model()), path)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    return caught.value


# --- what is there, and what is not ---


def test_missing_and_further_keys_are_said(tmp_path: Path) -> None:
    some = {name: a for name, a in state().items() if "features.1" not in name}
    some |= {name.replace("features.0", "head.0"): a + 1 for name, a in state().items() if "features.0" in name}
    part = against(some, tmp_path)
    assert not part.findings and part.references[0].unmatched == ("bn1",)
    assert part.warnings == part.references[0].remarks == (
        "1 normalisations of the model are not in the checkpoint, 'bn1' among them",
        "1 normalisations of the checkpoint are not in the model, 'head.0.bn' among them",
    )  # fmt: skip


def test_a_layer_of_another_width_is_said(tmp_path: Path) -> None:
    arrays = state()
    for part in ("weight", "bias", "running_mean", "running_var"):
        arrays[f"features.2.bn.{part}"] = np.ones(5, np.float32)
    found = against(arrays, tmp_path)
    assert "features.2.bn has 5 channels in the checkpoint and 8 in the model" in found.warnings
    arrays = state()
    arrays["features.2.bn.running_var"] = np.ones(5, np.float32)  # no normalisation at all
    assert against(arrays, tmp_path).references[0].unmatched == ("bn2",)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    arrays = {f"other.{name}": array.astype(np.float32) + 3 for name, array in state().items()}
    arrays = {name.replace("features", "layers"): array for name, array in arrays.items()}
    error = refusal(safetensors(arrays, tmp_path / "w.safetensors"))
    assert error.code == "checkpoint.other" and "exported from" in error.hint


def test_a_checkpoint_without_statistics_is_said(tmp_path: Path) -> None:
    weights = {name: array for name, array in state().items() if "running" not in name}
    assert against(weights, tmp_path).warnings == ("the checkpoint holds no running statistics",)


@pytest.mark.parametrize("count", [np.float32(np.nan), np.float32(np.inf), np.int64(-1), np.array([1, 2])])
def test_a_count_that_is_none_is_no_count(count: np.ndarray, tmp_path: Path) -> None:
    arrays = state()
    arrays["features.0.bn.num_batches_tracked"] = np.asarray(count)
    assert not against(arrays, tmp_path).findings


# --- prefixes and copies ---


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module.", "student.backbone."])
def test_what_a_wrapper_puts_in_front_of_every_name(prefix: str, tmp_path: Path) -> None:
    part = against({f"{prefix}{name}": array for name, array in state().items()}, tmp_path)
    assert not part.findings and part.references[0].matched == 3


def averaged() -> dict[str, np.ndarray]:
    """The same network some steps earlier."""
    return {
        name: array if array.dtype.kind == "i" else (array * 0.9 + 0.01).astype(np.float32)
        for name, array in state().items()
    }


@pytest.mark.parametrize("names", [True, False])
def test_of_two_copies_the_one_that_the_model_is_counts(names: bool, tmp_path: Path) -> None:
    for one, other in ((state(), averaged()), (averaged(), state())):
        both = one | {f"ema.{name}": array for name, array in other.items()}
        part = against(both, tmp_path, names=names)
        assert not part.findings and part.references[0].matched == 3 and not part.warnings


def test_statistics_of_one_copy_and_weights_of_the_other(tmp_path: Path) -> None:
    mixed = averaged()
    for name, array in state().items():
        if ".running_" not in name:
            mixed[name] = array
    both = mixed | {f"ema.{n}": a for n, a in averaged().items()} | {
        f"ema.{n}": a for n, a in state().items() if ".running_" in n
    }  # fmt: skip
    found = against(both, tmp_path).findings
    assert [(f.code, f.node) for f in found] == [("S09", "bn0"), ("S09", "bn1"), ("S09", "bn2")]
    assert "the statistics of ema.features.0.bn and the weights of features.0.bn" in found[0].message


# --- numbers ---


def test_bfloat16_statistics(tmp_path: Path) -> None:
    arrays = {n: a.astype(ml_dtypes.bfloat16) if a.dtype == np.float32 else a for n, a in state().items()}
    table, content = {}, b""
    for name, array in arrays.items():
        kind = "I64" if array.dtype == np.int64 else "BF16"
        raw = array.tobytes()
        offsets = [len(content), len(content) + len(raw)]
        table[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        content += raw
    head = json.dumps(table).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + content)
    read = read_checkpoint(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name].astype(np.float64), array.astype(np.float64))


def test_a_large_file_is_not_read_as_a_whole(tmp_path: Path) -> None:
    """Four gibibytes of zeros that take no place on the disk, and none in memory."""
    arrays, size = state(), 1 << 32
    path = safetensors(arrays, tmp_path / "w.safetensors")
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    table = json.loads(raw[8 : 8 + length])
    end = len(raw) - 8 - length
    table["embedding"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
    head = json.dumps(table).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(head)) + head + raw[8 + length :])
        stream.truncate(stream.tell() + size)
    if path.stat().st_blocks * 512 > size // 2:
        pytest.skip("this file system writes holes out")
    read = read_checkpoint(path)
    assert read["embedding"].nbytes == size
    np.testing.assert_array_equal(read["features.0.bn.running_mean"], arrays["features.0.bn.running_mean"])
    owner: Any = read["embedding"]
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert not owner.flags.owndata


# --- damage ---


def _head(table: object) -> bytes:
    head = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(head)) + head


SAFETENSORS = {
    "empty": b"",
    "eight bytes": struct.pack("<Q", 2),
    "no table": _head([1, 2]),
    "not JSON": _head(b"{'a': 1}"),
    "not text": _head(b"\xff\xfe{}"),
    "nested too deep": _head(b"[" * 100_000),
    "an entry that is none": _head({"a": 3}),
    "offsets that are none": _head({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}),
    "infinite offsets": _head(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}'),
    "a negative dimension": _head({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}),
    "outside": _head({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "a type that is none": _head({"a": {"dtype": ["F32"], "shape": [0], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_what_is_no_safetensors_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(SAFETENSORS[name])
    assert refusal(path).code == "checkpoint.damaged"


@pytest.mark.parametrize("cut", [0, 1, 100, 2000, -200, -1])
def test_truncated_files_of_torch(cut: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for zipped in (True, False):
        path = tmp_path / "w.pt"
        tensors = {name: torch.from_numpy(np.array(a)) for name, a in state().items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        path.write_bytes(path.read_bytes()[:cut])
        assert refusal(path).code == "checkpoint.damaged"


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(zipped: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    content = {"state_dict": {}, "callback": Runs(tmp_path / "ran")}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert refusal(tmp_path / "w.pt").code == "checkpoint.objects"
    assert not (tmp_path / "ran").exists()


def tensors(prefix: str = "") -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {f"{prefix}{name}": torch.from_numpy(np.array(array)) for name, array in state().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda: tensors(),
        lambda: {"state_dict": tensors("module."), "epoch": 3},
        lambda: {"model": {"state_dict": tensors()}, "optimizer": {"state": {}}},
        lambda: {"network": tensors("module.model.")},
        lambda: {"state_dict_ema": tensors("module.")},
    ],
)
def test_every_wrapping_of_torch(wrap: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        torch.save(_cast(wrap(), kind), tmp_path / "w.pt")
        part = with_checkpoint(open_subject(renamed()), tmp_path / "w.pt")
        assert part.references[0].matched == 3 and not part.findings


def _cast(content: Any, kind: Any) -> Any:
    if isinstance(content, dict):
        return {name: _cast(value, kind) for name, value in content.items()}
    return content.to(kind) if hasattr(content, "is_floating_point") and content.is_floating_point() else content


def test_an_averaged_copy_beside_the_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    old = {name: torch.from_numpy(np.array(array)) for name, array in averaged().items()}
    for content in ({"model": old, "model_ema": tensors()}, {"model": tensors(), "model_ema": old}):
        torch.save(content, tmp_path / "w.pt")
        part = with_checkpoint(open_subject(renamed()), tmp_path / "w.pt")
        assert not part.findings and part.references[0].matched == 3 and not part.warnings


def test_tensors_that_numpy_does_not_know(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    strange = {
        "complex": torch.ones(2, dtype=torch.complex64),
        "eight": torch.ones(2).to(torch.float8_e4m3fn),
        "sparse": torch.ones(2, 2).to_sparse(),
        "nowhere": torch.ones(2, device="meta"),
        7: torch.ones(2),
    }
    torch.save({**tensors(), **strange}, tmp_path / "w.pt")
    read = read_checkpoint(tmp_path / "w.pt")
    assert read.keys() == {*state(), "eight", "7"}


@pytest.mark.parametrize("content", [{}, [], None, {"epoch": 3}, {"state_dict": {}}])
def test_a_file_of_torch_without_weights(content: object, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "w.pt")
    assert refusal(tmp_path / "w.pt").code == "checkpoint.format"
