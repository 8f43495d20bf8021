"""L3: both whole models on the same inputs, judged by how much the original itself moves under rounding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import onnx

from .copies import Copy, Decision, decisions, is_random, prepare_copy
from .jobs import Job, JobResult
from .kernels import Runtime, gravest, weakest
from .metrics import Difference, difference
from .model_inputs import VALUES, InputsError, Trial, attempts
from .noise import Noise, Outputs
from .norm_regions import normalises
from .output_judge import UNOPTIMISED, Comparison, EndToEnd
from .repro import keep_trial
from .runner import Worker
from .verdicts import Settings, Status, VerifyOptions

_LEVELS = (UNOPTIMISED, "ORT_ENABLE_BASIC")


def compare_end_to_end(
    paths: tuple[Path, Path],
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    options: VerifyOptions,
    worker: Worker,
    frozen: frozenset[str] = frozenset(),
    runtime: Runtime | None = None,
    *,
    repaired: bool = False,
) -> EndToEnd:
    """Run the original and the candidate (`paths`, and their protos without external data) and compare.

    `repaired` says that the first proto is not what the file holds. Operators without a kernel on `runtime` are emulated.

    Raises:
        WorkerError: the worker crashed, timed out or left no result.
        UsageError: user data or shapes that do not fit the model.
    """
    chosen = _decisions(models)
    copies = [
        prepare_copy(
            path, model, [pair[side].scores for pair in chosen], worker.folder, f"side{side}", runtime or Runtime(),
            changed=repaired and side == 0,
        )
        for side, (path, model) in enumerate(zip(paths, models, strict=True))
    ]  # fmt: skip
    found = _compared(paths, models, copies, chosen, options, worker, frozen)
    sides = [copy.emulated for copy in copies]
    return dataclasses.replace(
        found,
        emulated=gravest(*(side.ops for side in sides)),
        execution=weakest(side.execution for side in sides),
        warnings=(*found.warnings, *(text for side in sides for text in side.refused)),
    )


def _compared(
    paths: tuple[Path, Path],
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    copies: Sequence[Copy],
    chosen: Sequence[tuple[Decision, Decision]],
    options: VerifyOptions,
    worker: Worker,
    frozen: frozenset[str],
) -> EndToEnd:
    try:
        first, trials, level = _original(copies[0], models[0], options, worker)
    except InputsError as error:
        return EndToEnd(Status.INCONCLUSIVE, reason=f"no inputs can be made: {error}; give --shape or --inputs")
    if not first.ok:
        reason = f"the original does not run here ({first.stage}): {first.message}"
        hint = "; if its inputs are to blame, give --shape or --inputs" if first.stage == "run" else ""
        return EndToEnd(Status.INCONCLUSIVE, reason=reason + hint)
    settings = _settings(trials, first, level, options, worker)
    if is_random(models[0]) and not _repeats(copies[0], trials, level, first, worker):
        return EndToEnd(Status.INCONCLUSIVE, reason="the original does not repeat itself (M05)", settings=settings)
    feeds = [{name: value for name, value in trial.feeds.items() if name not in frozen} for trial in trials]
    second = worker.run(Job(copies[1].path, feeds, None, copies[1].data_dir, level))
    if not second.ok and second.stage == "load" and copies[1].emulated.refused:  # it lacks a kernel, not sense
        reason = f"the candidate cannot run here: {'; '.join(copies[1].emulated.refused)}"
        return EndToEnd(Status.INCONCLUSIVE, reason=reason, settings=settings)
    if not second.ok:
        reason = f"the original runs, the candidate does not ({second.stage}): {second.message}"
        return EndToEnd(Status.FAIL, reason=reason, settings=settings)
    sensitive = normalises(models[0])
    noise = Noise(copies[0], trials, level, first.outputs, worker, options, inputs_too=sensitive)
    renamed = [(pair[0].scores, pair[1].scores) for pair in chosen]
    compared = Comparison(options, trials, first.outputs, _align(second.outputs, renamed), noise)
    result = compared.result(models[0], chosen, settings)
    if options.keep_repro and not result.status.passed:
        keep_trial(options.keep_repro, *paths, feeds)
    return result


def _decisions(models: tuple[onnx.ModelProto, onnx.ModelProto]) -> list[tuple[Decision, Decision]]:
    old, new = (decisions(model) for model in models)
    return [(old[name], new[name]) for name in old if name in new and old[name].axis == new[name].axis]


def _align(outputs: Outputs, renamed: Sequence[tuple[str, str]]) -> Outputs:
    """Give the candidate's score tensors the names that they have in the original."""
    return [{**values, **{old: values[new] for old, new in renamed}} for values in outputs]


def _original(
    copy: Copy, model: onnx.ModelProto, options: VerifyOptions, worker: Worker
) -> tuple[JobResult, tuple[Trial, ...], str]:
    """Run the original on values that make most of its outputs say something."""
    best: tuple[JobResult, tuple[Trial, ...], str] | None = None
    for values in VALUES:
        found = _smallest(copy, model, options, worker, values)
        if best is None or _telling(found[0]) > _telling(best[0]):
            best = found
        if not best[0].ok or _telling(best[0]) == len(model.graph.output):
            break
    assert best is not None
    return best


def _telling(result: JobResult) -> int:
    """How many outputs have finite, varying values in some trial."""
    told = [{name for name, value in one.items() if difference(value, value).informative} for one in result.outputs]
    return len(set().union(*told)) if result.ok else 0


def _smallest(
    copy: Copy, model: onnx.ModelProto, options: VerifyOptions, worker: Worker, values: str
) -> tuple[JobResult, tuple[Trial, ...], str]:
    """Run the original: the smallest inputs it accepts, at the lowest optimisation level it loads at."""
    result, refused, level = JobResult(False), None, _LEVELS[0]
    for trials in attempts(model, options, values):
        feeds = [trial.feeds for trial in trials]
        result = worker.run(Job(copy.path, feeds, None, copy.data_dir, level))
        if not result.ok and result.stage == "load" and level == _LEVELS[0]:
            level = _LEVELS[1]
            result = worker.run(Job(copy.path, feeds, None, copy.data_dir, level))
        if result.ok or result.stage == "load":
            return result, trials, level
        refused = refused or result
    return refused or result, (), level


def _repeats(copy: Copy, trials: Sequence[Trial], level: str, first: JobResult, worker: Worker) -> bool:
    worker.forget()
    again = worker.run(Job(copy.path, [trial.feeds for trial in trials], None, copy.data_dir, level))
    worker.forget()
    if not again.ok:
        return False
    pairs = zip(first.outputs, again.outputs, strict=True)
    return all(_identical(difference(a[name], b[name])) for a, b in pairs for name in a)


def _identical(found: Difference) -> bool:
    return not (found.reason or found.changed or found.max_abs or found.repaired)


def _settings(
    trials: Sequence[Trial], first: JobResult, level: str, options: VerifyOptions, worker: Worker
) -> Settings:
    return Settings(
        seeds=tuple(trial.seed for trial in trials),
        shapes=tuple(dict(trial.shapes) for trial in trials),
        ort_version=str(first.facts.get("ort", "")),
        provider=worker.providers[0],
        optimization=level,
        random_inputs=any(name not in options.inputs for trial in trials for name in trial.feeds),
    )
