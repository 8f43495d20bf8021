"""One random model through everything: written to disk, optimised with full verification, judged by another measure, and again.

`examine` leaves verification out, so that it cannot hide a mistake of the engine. Here it takes part: it must let through what
is right, and what it let through must be right.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto
from onnx.inliner import inline_local_functions

import normfold
from normfold.config import Config
from normfold.errors import NormfoldError
from tests.fuzz.examine import TARGETS, Kind, Outcome, compare
from tests.fuzz.generator import random_model
from tests.fuzz.norm_spellings import random_norms
from tests.fuzz.outliner import outlined

# An edit that was dropped because nothing could be said about it is no mistake.
_REFUSALS = ("FAIL", "SUSPECT", "the whole model differs")
# Bytes from which on tensors lie outside. onnxruntime does not read a shape that does: such models are not compared as a whole.
_OUTSIDE = (None, 256, None, 0)
# What says something about the model or this machine, and nothing about the engine.
_NO_MISTAKES = ("worker.crashed", "worker.timeout", "resource.memory", "function.", "input.proto_2gib")


def examine_whole(seed: int) -> tuple[str, int, str, bytes]:
    """The model of a seed: plain nets, nets of norms for a target each, nets in functions; some with external data."""
    flat, model, config = _drawn(seed)
    if flat is None or model is None:
        return "", 0, "", b""
    outcome = examine_files(model, seed, config, outside=_OUTSIDE[seed // 4 % len(_OUTSIDE)], flat=flat)
    small = model.SerializeToString() if outcome.kind.is_mistake else b""
    return outcome.kind.value, outcome.edits, outcome.message, small


def _drawn(seed: int) -> tuple[ModelProto | None, ModelProto | None, Config]:
    """A model without functions, the same as it is optimised, and how."""
    if seed % 4 == 1:
        model = random_norms(seed)
        return model, model, Config(target=TARGETS[seed // 4 % len(TARGETS)], trials=1)
    model = random_model(seed)
    moved = outlined(model, seed) if model is not None and seed % 4 == 3 else model
    return model, moved, Config(trials=1, seed=seed % 7)


def examine_files(
    model: ModelProto, seed: int, config: Config, *, outside: int | None = None, flat: ModelProto | None = None
) -> Outcome:
    """Optimise a model on disk, with full verification, and hold the result against it.

    Args:
        model: not changed.
        seed: of the inputs on which it is compared.
        config: of the run.
        outside: tensors of so many bytes and more lie in a data file; None for none.
        flat: the same model without functions, on some of which onnxruntime stumbles.
    """
    with tempfile.TemporaryDirectory(prefix="normfold-fuzz-") as name:
        folder = Path(name)
        place = {"save_as_external_data": True, "location": "m.data", "size_threshold": outside}
        options = {} if outside is None else place
        onnx.save(ModelProto.FromString(model.SerializeToString()), folder / "m.onnx", **options)
        try:
            return _through(folder, flat or model, seed, config)
        except NormfoldError as error:
            kind = Kind.SKIPPED if error.code.startswith(_NO_MISTAKES) else Kind.CRASH
            return Outcome(kind, f"{error.code}: {error}")


def _through(folder: Path, model: ModelProto, seed: int, config: Config) -> Outcome:
    done = normfold.optimize(folder / "m.onnx", folder / "o.onnx", config=config)
    edits = len(done.plan.edits) + len(done.plan.norms)
    refused = [f"{edit.site}: {edit.reason}" for edit in done.report.dropped if edit.reason.startswith(_REFUSALS)]
    if refused:
        return Outcome(Kind.DROPPED, f"verification refused {'; '.join(refused)}", edits)
    verdict = "" if done.report.verification is None else done.report.verification.verdict
    result = onnx.load(folder / "o.onnx")
    difference = compare(model, inline_local_functions(result), seed)
    if difference:
        return Outcome(Kind.MISMATCH, f"{verdict}, and yet {difference}", edits)
    second = _again(folder, "o.onnx", "p.onnx", config)
    # As in `examine`: a fold beside a norm may leave a smaller one, which is done in the second run.
    if not _equal(second, result) and not (
        done.plan.norms and _equal(_again(folder, "p.onnx", "q.onnx", config), second)
    ):
        return Outcome(Kind.SECOND_PASS, "the second run changed something", edits)
    return Outcome(Kind.FINE if verdict.startswith("PASS") else Kind.SKIPPED, verdict, edits)


def _again(folder: Path, source: str, target: str, config: Config) -> ModelProto:
    normfold.optimize(folder / source, folder / target, config=config)
    return onnx.load(folder / target)


def _equal(one: ModelProto, other: ModelProto) -> bool:
    return bool(one.graph == other.graph and one.functions == other.functions)
