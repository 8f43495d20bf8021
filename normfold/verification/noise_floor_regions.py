"""Regions with an operator that has no rounding bound: judged like whole models, by their own noise floor."""

from __future__ import annotations

import onnx

from .end_to_end import compare_end_to_end
from .kernels import Execution, Runtime, emulation_reason
from .runner import Worker
from .verdicts import OutputVerdict, Region, RegionVerdict, Status, VerifyOptions


def compare(region: Region, reason: str, options: VerifyOptions, worker: Worker, runtime: Runtime) -> RegionVerdict:
    """Compare `region` end to end; `reason` says why its rounding has no bound."""
    paths = worker.folder / "floor-before.onnx", worker.folder / "floor-after.onnx"
    for path, model in zip(paths, (region.before, region.after), strict=True):
        onnx.save(model, path)
    plain = VerifyOptions(seed=options.seed, trials=options.trials, improve=options.improve)
    worker.forget()
    ran = compare_end_to_end(paths, (region.before, region.after), plain, worker, runtime=runtime)
    worker.forget()
    gravest = _gravest(ran.outputs, ran.status)
    text = f"noise floor instead of a rounding bound: {reason}"
    execution = "noise floor" if ran.execution is Execution.NATIVE else f"noise floor, {ran.execution.value}"
    unwanted = options.require_native and ran.emulated and ran.status.passed
    return RegionVerdict(
        edits=region.edits,
        status=Status.INCONCLUSIVE if unwanted else ran.status,
        execution=execution,
        emulated=ran.emulated,
        max_abs=gravest.max_abs,
        bound=gravest.bound,
        ratio=gravest.ratio,
        rms=gravest.rms,
        location=gravest.name + gravest.location,
        seed=gravest.seed,
        shapes=gravest.shapes,
        reason=emulation_reason(ran.emulated) if unwanted else text if ran.status.passed else f"{ran.reason}; {text}",
    )


def _gravest(outputs: tuple[OutputVerdict, ...], status: Status) -> OutputVerdict:
    nothing = OutputVerdict("", status)
    return next((verdict for verdict in outputs if verdict.status is status), nothing)
