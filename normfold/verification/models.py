"""`verify_models`: structure first, then both models end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from normfold.errors import InputError

from .end_to_end import compare_end_to_end
from .kernel_limits import broken_limits
from .kernels import emulation_reason
from .native import working
from .providers import choose_runtime
from .repairs import Repair, repair
from .runner import Worker
from .structure import check_wellformed, compare_structure, crashes_runtime
from .verdicts import Status, Verification, VerifyOptions

_STEPS = 2


def verify_models(
    original: Path,
    candidate: Path,
    options: VerifyOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
    frozen: frozenset[str] = frozenset(),
    repairs: Sequence[Repair] = (),
) -> Verification:
    """Compare two model files: interface and limits of the target's kernels (L0), then outputs on the same inputs (L3).

    Args:
        original: the reference; external data, if any, lie beside it.
        candidate: the model under test.
        options: seeds, shapes, user data, limits.
        progress: called with (steps done, steps in total).
        frozen: inputs of the original that have a default value and that the candidate deliberately fixed.
        repairs: regions of the original that the candidate improved; the reference evaluates them in float64. The verdict
            is then PASS (improved), or SUSPECT where improvement is not wanted.

    Returns:
        The verdict. A model that cannot be run here is INCONCLUSIVE, with the reason; it never passes.

    Raises:
        InputError: a file is missing or is not an ONNX model.
        UsageError: user data or shapes that do not fit.
        WorkerError: the child process crashed, timed out, ran out of memory or left no result.
    """
    models = _load(original), _load(candidate)
    problems = compare_structure(*models, frozen)
    if problems:
        return Verification(Status.FAIL, "L0", reason="; ".join(problems))
    mapped = max(_mapped(path, model) for path, model in zip((original, candidate), models, strict=True))
    with working(options, mapped) as worker:
        found = _standing((original, candidate), models, options)
        if progress:
            progress(1, _STEPS)
        if found is None:
            found = _compared((original.resolve(), candidate.resolve()), models, options, worker, frozen, repairs)
    if progress:
        progress(_STEPS, _STEPS)
    return _native(found, options)


def _standing(
    paths: tuple[Path, Path], models: tuple[onnx.ModelProto, onnx.ModelProto], options: VerifyOptions
) -> Verification | None:
    """What is to be said without running the models; None if that is needed."""
    if malformed := check_wellformed(*paths, models[1], options.target):
        return Verification(Status.FAIL, "L0", reason=malformed)
    if broken := broken_limits(*models, options.target):
        return Verification(Status.FAIL, "L0", reason="; ".join(broken))
    for model, status in zip(models, (Status.INCONCLUSIVE, Status.FAIL), strict=True):
        if reason := crashes_runtime(model):
            return Verification(status, "L0", reason=reason)
    return None


def _compared(
    paths: tuple[Path, Path],
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    options: VerifyOptions,
    worker: Worker,
    frozen: frozenset[str],
    repairs: Sequence[Repair],
) -> Verification:
    repaired = repair(models[0], repairs)
    runtime = choose_runtime(options, worker)
    subjects = repaired.model, models[1]
    ran = compare_end_to_end(paths, subjects, options, worker, frozen, runtime, repaired=bool(repaired.count))
    found = Verification(
        status=ran.status,
        level="L3" if ran.outputs else "L0",
        outputs=ran.outputs,
        coverage=ran.coverage,
        evidence=("the interfaces are identical", *ran.evidence),
        warnings=(*ran.warnings, *repaired.refused),
        reason=ran.reason,
        settings=ran.settings,
        emulated_ops=ran.emulated,
        execution=ran.execution.value,
        target_ep=runtime.target_ep,
        target_ep_ran=runtime.target_ep_ran,
    )
    return _improved(found, repaired.count, options)


def _improved(found: Verification, count: int, options: VerifyOptions) -> Verification:
    """Outputs of a model with improved regions change on purpose; that is never a plain PASS."""
    if not count or found.status is not Status.PASS:
        return found
    said = f"compared with the original whose {count} improved regions were evaluated in float64"
    evidence = (*found.evidence, f"{said}; outputs change on purpose")
    if options.improve:
        return dataclasses.replace(found, status=Status.IMPROVED, evidence=evidence)
    reason = "outputs change on purpose, which is not wanted"
    return dataclasses.replace(found, status=Status.SUSPECT, evidence=evidence, reason=reason)


def _native(found: Verification, options: VerifyOptions) -> Verification:
    if not (options.require_native and found.emulated_ops and found.status.passed):
        return found
    return dataclasses.replace(found, status=Status.INCONCLUSIVE, reason=emulation_reason(found.emulated_ops))


def _mapped(path: Path, model: onnx.ModelProto) -> int:
    """Bytes of the model and of the data files that its weights name."""
    names = {path.name}
    for tensor in model.graph.initializer:
        names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    files = (path.parent / name for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise InputError("input.missing", "no such file", where=str(path)) from error
    except (DecodeError, OSError) as error:
        raise InputError("input.format", f"this is not an ONNX model: {error}", where=str(path)) from error
