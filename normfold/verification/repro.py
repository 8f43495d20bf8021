"""What a person needs to see a failure again: both models, the inputs, the command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from .verdicts import Array, Region


def keep_region(folder: Path, index: int, region: Region, feeds: Mapping[str, Array]) -> None:
    """Write `before.onnx`, `after.onnx`, `inputs.npz` and `command.txt` into a folder for this region."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(region.edits))[:80] or "region"
    target = folder / f"{index:05d}-{name}"
    target.mkdir(parents=True, exist_ok=True)
    onnx.save(region.before, target / "before.onnx")
    onnx.save(region.after, target / "after.onnx")
    _finish(target, feeds, "before.onnx", "after.onnx")


def keep_trial(folder: Path, original: Path, candidate: Path, feeds: Sequence[Mapping[str, Array]]) -> None:
    """Write the inputs of every trial and the command; the models stay where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(feeds):
        _finish(folder, one, str(original), str(candidate), f"inputs{number}.npz")


def _finish(target: Path, feeds: Mapping[str, Array], before: str, after: str, inputs: str = "inputs.npz") -> None:
    with (target / inputs).open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: _plain(value) for name, value in feeds.items() if name != "file"})
    (target / "command.txt").write_text(f"normfold verify {before} {after} --inputs {inputs}\n", "utf-8")


def _plain(value: Array) -> Array:
    """numpy cannot store bfloat16 without pickling; float32 holds the same numbers."""
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value
