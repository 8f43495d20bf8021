"""L2: every rewritten region against the region it replaces, under a bound that only rounding may use.

Regions are merged into few sessions. When a merged session fails it is halved until the culprit stands alone: a
region whose original does not run is INCONCLUSIVE, one whose rewrite does not run FAILs.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import length_hint

import onnx
from onnx import TensorProto

from normfold.errors import WorkerError

from .companion import NoCompanionError
from .jobs import Job, JobResult
from .kernels import Runtime, emulation_reason
from .native import working
from .oracle import OracleError, evaluate
from .providers import choose_runtime
from .region_batch import Item, feeds, merge, prepare, split
from .region_inputs import InputsError, RegionInputs, RegionTrial, plan_inputs
from .region_judge import Finding, Sides, judge
from .region_truth import LITERAL, compare_with_truth, improved, overflow_repaired, resolved, told, with_errors
from .repro import keep_region
from .runner import Worker
from .verdicts import Array, Region, RegionVerdict, Status, VerifyOptions, number, worst

_MOST_ITEMS, _MOST_WEIGHTS, _MOST_ELEMENTS = 200, 64 << 20, 4 << 20
_ISOLATED = ("worker.crashed", "resource.memory")  # endings that one region can cause to a whole batch
_MOST_ORACLE = 3  # trials that float64 judges before a failing region may count as an improvement
_UNINFORMATIVE = "no trial gave finite, varying values"
Progress = Callable[[int, int], None]


def verify_regions(
    regions: Iterable[Region], options: VerifyOptions, *, progress: Progress | None = None
) -> tuple[RegionVerdict, ...]:
    """Compare every region before and after, and name the edits that broke one.

    Args:
        regions: read once, in order; only one batch of them is held.
        options: seeds, trials, limits.
        progress: called with (regions done, regions in total or 0 when unknown).

    Returns:
        One verdict per region, in order.

    Raises:
        WorkerError: the worker timed out or left no result. A crash is narrowed down to its region instead, whose
            verdict is ERROR.
    """
    total = length_hint(regions)
    verdicts: dict[int, RegionVerdict] = {}
    with working(options) as worker:
        runtime = choose_runtime(options, worker)
        for found in _Judge(options, worker, runtime).all(regions):
            for index, verdict in found.items():
                verdicts[index] = _graver(verdicts[index], verdict) if index in verdicts else verdict
            if progress:
                progress(len(verdicts), total)
    return tuple(verdicts[index] for index in sorted(verdicts))


@dataclasses.dataclass(frozen=True, slots=True)
class _Judge:
    options: VerifyOptions
    worker: Worker
    runtime: Runtime

    def all(self, regions: Iterable[Region]) -> Iterator[dict[int, RegionVerdict]]:
        waiting: dict[object, list[Item]] = defaultdict(list)
        for index, region in enumerate(regions):
            items = self._prepared(index, region)
            if isinstance(items, RegionVerdict):
                yield {index: items}
                continue
            for item in items:
                group = waiting[item.key]
                group.append(item)
                if _is_full(group):
                    yield self.batch(waiting.pop(item.key))
        for group in waiting.values():
            yield self.batch(group)

    def _prepared(self, index: int, region: Region) -> list[Item] | RegionVerdict:
        try:
            return self._prepare(index, region)
        except WorkerError as error:
            return _crash(region, error)

    def _prepare(self, index: int, region: Region) -> list[Item] | RegionVerdict:
        """Return what to run for `region`: a float16 one runs as it is and widened, which shows smaller mistakes."""
        if [info.name for info in region.before.graph.output] != [info.name for info in region.after.graph.output]:
            return _verdict(region, Status.FAIL, "the region's outputs differ by name")
        try:
            planned = plan_inputs(region.before, region.after)
        except InputsError as error:
            return _verdict(region, Status.INCONCLUSIVE, f"unverified: {error}")
        problem = ""
        for inputs in (planned, *planned.rescalings()):
            try:
                return _items(index, region, inputs, self.runtime)
            except NoCompanionError as error:
                problem = problem or str(error)
        return self._by_noise_floor(region, problem)

    def _by_noise_floor(self, region: Region, reason: str) -> RegionVerdict:
        from .noise_floor_regions import compare  # used by few regions

        return compare(region, reason, self.options, self.worker, self.runtime)

    def batch(self, items: Sequence[Item]) -> dict[int, RegionVerdict]:
        """Judge `items` in one session per side, halving on failure."""
        trials = self._trials(items)
        try:
            before = self._run(items, "before", trials)
            if not before.ok:
                return self._narrow(items, lambda item: self._original_failed(item, before))
            after = self._run(items, "after", trials)
            if not after.ok:
                return self._narrow(items, lambda item: _rewrite_failed(item, after))
        except WorkerError as error:
            if error.code not in _ISOLATED:
                raise
            crash = error
            return self._narrow(items, lambda item: _crash(item.region, crash))
        rows = zip(items, zip(*trials, strict=True), strict=True)
        return {item.index: self._verdict(item, row, before, after) for item, row in rows}

    def _narrow(self, items: Sequence[Item], alone: Callable[[Item], RegionVerdict | None]) -> dict[int, RegionVerdict]:
        if len(items) == 1:
            verdict = alone(items[0])
            return {} if verdict is None else {items[0].index: verdict}
        half = len(items) // 2
        return {**self.batch(items[:half]), **self.batch(items[half:])}

    def _original_failed(self, item: Item, result: JobResult) -> RegionVerdict | None:
        if item.execution == "native" and item.elem == TensorProto.FLOAT16:
            return None  # no float16 kernel here; the widened run gives the verdict
        for inputs in item.inputs.rescalings() if not item.inputs.rescaled else ():
            widen = item.execution.startswith("widened")
            again = prepare(item.index, item.region, inputs, self.runtime, widen=widen)
            verdict = self.batch([again])[item.index]
            if verdict.execution != "none":
                return verdict
        return _verdict(item.region, Status.INCONCLUSIVE, f"the original region does not run: {result.message}")

    def _trials(self, items: Sequence[Item], *, times: int = 1) -> list[list[RegionTrial]]:
        plan = items[0].inputs.plan(self.options.trials) * times
        return [
            [item.inputs.trial(number, kind, self.options.seed, item.index) for item in items]
            for number, kind in enumerate(plan)
        ]

    def _run(self, items: Sequence[Item], side: str, trials: Sequence[Sequence[RegionTrial]]) -> JobResult:
        path = self.worker.folder / f"{side}{self.worker.count}.onnx"  # a new name, or the last session would be reused
        onnx.save(merge(items, side), path)
        fed: list[dict[str, Array]] = [
            {name: value for item, one in zip(items, trial, strict=True) for name, value in feeds(item, one).items()}
            for trial in trials
        ]
        try:
            return self.worker.run(Job(path, fed))
        finally:
            path.unlink()

    def _verdict(self, item: Item, trials: Sequence[RegionTrial], before: JobResult, after: JobResult) -> RegionVerdict:
        try:
            sides = _sides(item, trials, before, after)
        except OracleError as error:
            return _verdict(item.region, Status.INCONCLUSIVE, f"no float64 evaluation: {error}")
        found = [
            (judge(info.name, pair, item.lines, item.elem), trial)
            for pair, trial in zip(sides, trials, strict=True)
            for info in item.region.before.graph.output
        ]
        finding, trial = max(found, key=lambda pair: (_rank(pair[0].status), pair[0].ratio))
        status = worst(one.status for one, _ in found)
        verdict = _from_finding(item, finding, trial, status)
        if not any(one.informative for one, _ in found) and status is Status.PASS:
            return dataclasses.replace(verdict, status=Status.INCONCLUSIVE, reason=_UNINFORMATIVE)
        if status is not Status.PASS or any(_asks(item, one) for one, _ in found):
            verdict = self._resolve(item, verdict, trials, sides)
        elif item.inputs.norm is not None:
            verdict = with_errors(verdict, item, trials, sides)
        if verdict.status is Status.PASS and (truth := overflow_repaired(item, trials, sides)):
            verdict = improved(told(verdict, truth), LITERAL, improve=self.options.improve)
        if self.options.keep_repro and not verdict.status.passed:
            keep_region(self.options.keep_repro, item.index, item.region, trial.feeds)
        return self._native(item, verdict)

    def _native(self, item: Item, verdict: RegionVerdict) -> RegionVerdict:
        """What emulation shows is no evidence where native kernels are asked for."""
        if not (item.emulated and self.options.require_native and verdict.status.passed):
            return verdict
        return dataclasses.replace(verdict, status=Status.INCONCLUSIVE, reason=emulation_reason(item.emulated))

    def _resolve(
        self, item: Item, verdict: RegionVerdict, trials: Sequence[RegionTrial], sides: Sequence[Sides]
    ) -> RegionVerdict:
        """Ask float64 about the trials in which the sides differ; a SUSPECT is tried again, four times as often."""
        norm = item.inputs.norm is not None
        if verdict.max_abs is None and verdict.status is Status.FAIL:
            return verdict
        if verdict.status is Status.SUSPECT:
            trials = [row[0] for row in self._trials([item], times=4)]
            before, after = (self._run([item], side, [[trial] for trial in trials]) for side in ("before", "after"))
            if not (before.ok and after.ok):
                return verdict
            sides = _sides(item, trials, before, after)
        else:  # an improvement must show where the difference is; elsewhere both sides agree already
            most = len(trials) if norm else _MOST_ORACLE
            chosen = [n for n, pair in enumerate(sides) if _differs(item, pair)][:most]
            trials, sides = [trials[n] for n in chosen], [sides[n] for n in chosen]
        try:
            truth = compare_with_truth(item, trials, sides)
        except OracleError as error:
            return dataclasses.replace(verdict, reason=f"{verdict.reason}; no float64 evaluation: {error}")
        return resolved(verdict, truth, norm=norm, improve=self.options.improve)


def _items(index: int, region: Region, inputs: RegionInputs, runtime: Runtime) -> list[Item]:
    item = prepare(index, region, inputs, runtime)
    again = item.elem == TensorProto.FLOAT16 and item.execution == "native"
    return [item, prepare(index, region, inputs, runtime, widen=True)] if again else [item]


def _differs(item: Item, pair: Sides) -> bool:
    found = [judge(info.name, pair, item.lines, item.elem) for info in item.region.before.graph.output]
    return any(one.status is not Status.PASS or _asks(item, one) for one in found)


def _asks(item: Item, finding: Finding) -> bool:
    """Whether float64 must say which side is right although the difference passes."""
    return finding.repaired or (finding.moved and item.inputs.norm is not None)


def _is_full(group: Sequence[Item]) -> bool:
    return (
        len(group) >= _MOST_ITEMS
        or sum(item.weight for item in group) >= _MOST_WEIGHTS
        or sum(item.inputs.elements for item in group) >= _MOST_ELEMENTS
    )


def _sides(item: Item, trials: Sequence[RegionTrial], before: JobResult, after: JobResult) -> list[Sides]:
    old, new = ([split(item, outputs) for outputs in side.outputs] for side in (before, after))
    if item.execution == "numpy-float64":
        fed = [trial.feeds for trial in trials]
        old = [{**a, **b} for a, b in zip(old, evaluate(item.region.before, fed), strict=True)]
        new = [{**a, **b} for a, b in zip(new, evaluate(item.region.after, fed), strict=True)]
    return [Sides(a, b, trial.hostile) for a, b, trial in zip(old, new, trials, strict=True)]


def _graver(left: RegionVerdict, right: RegionVerdict) -> RegionVerdict:
    return left if worst((left.status, right.status)) is left.status else right


def _rank(status: Status) -> int:
    return [Status.PASS, Status.SUSPECT, Status.FAIL].index(status)


def _from_finding(item: Item, finding: Finding, trial: RegionTrial, status: Status) -> RegionVerdict:
    return RegionVerdict(
        edits=item.region.edits,
        status=status,
        execution=item.told,
        emulated=dict(item.emulated),
        max_abs=finding.max_abs,
        bound=finding.bound,
        ratio=number(finding.ratio),
        rms=finding.rms,
        location=finding.location,
        seed=trial.seed,
        shapes=dict(trial.shapes),
        reason=f"{finding.reason} ({trial.kind} values)" if finding.reason else "",
    )


def _rewrite_failed(item: Item, result: JobResult) -> RegionVerdict:
    return _verdict(item.region, Status.FAIL, f"the original region runs, the rewritten one does not: {result.message}")


def _crash(region: Region, error: WorkerError) -> RegionVerdict:
    """The verdict on a region that ends the child process.

    Raises:
        WorkerError: the given one, if it says nothing about the region.
    """
    if error.code not in _ISOLATED:
        raise error
    return _verdict(region, Status.ERROR, f"{error.code}: {error}")


def _verdict(region: Region, status: Status, reason: str) -> RegionVerdict:
    return RegionVerdict(edits=region.edits, status=status, execution="none", reason=reason)
