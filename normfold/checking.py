"""`check`: what is wrong with the normalisation state of a model, from the file, with data, against a reference.

The examiners (`normfold.statistics`) look at one `Subject` and hand back a `Part` each; here they are called in order and put
together. An examiner that is new is one more call in `_examined`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto
from pydantic import ConfigDict

from normfold._version import __version__
from normfold.documents import FileReport, Value
from normfold.model.load import Initializers
from normfold.model.source import Source
from normfold.statistics.assemble import assemble
from normfold.statistics.bar import Bar
from normfold.statistics.data import DataOptions, open_data
from normfold.statistics.data.opening import Given
from normfold.statistics.from_file import from_file
from normfold.statistics.part import Part
from normfold.statistics.probes.passes import Limits
from normfold.statistics.schema import CheckReport
from normfold.statistics.subject import Subject, open_subject
from normfold.statistics.suppressions import Suppression
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.with_checkpoint import with_checkpoint
from normfold.statistics.with_data import DataSettings, Training, run_with_data
from normfold.statistics.with_records import with_records

Progress = Callable[[str, int, int], None]


class CheckConfig(Value):
    """Settings of `check`.

    Args:
        thresholds: every limit.
        suppressions: findings that are known and do not count.
        initializers: what to do with initializers that are also graph inputs.
        data: how data is read.
        run: how it is run through the model.
        epsilon: of the layers in training, for a checkpoint, which does not say; None for the usual one.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    thresholds: Thresholds = Thresholds()
    suppressions: tuple[Suppression, ...] = ()
    initializers: Initializers = Initializers.AUTO
    data: DataOptions = DataOptions()
    run: DataSettings = DataSettings()
    epsilon: float | None = None


def check(
    source: str | Path | Source | ModelProto,
    *,
    data: Given | None = None,
    checkpoint: str | Path | None = None,
    baseline: str | Path | None = None,
    config: CheckConfig | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Examine the normalisation state of a model.

    Args:
        source: the model; it is not changed.
        data: what `open_data` takes: a file, a folder, `module:function`, arrays by input, or a `DataSource`; None for none.
        checkpoint: weights that the model was exported from: `.safetensors`, or `.pt` with torch.
        baseline: of `stats record`, for a model that holds no statistics; a manifest beside a folded model is found by itself.
        config: limits and suppressions.
        progress: called with a stage, how much is done, and how much there is.

    Raises:
        InputError: the model, the data or a reference cannot be read, do not fit each other, or the model does not run.
        UsageError: options of the data contradict each other, the data or the model.
        EnvironmentProblem: a `.pt` checkpoint without torch.
        WorkerError: the child process crashed, timed out or ran out of memory.
    """
    config = config or CheckConfig()
    report = progress or (lambda *_: None)
    report("reading", 0, 1)
    file = open_subject(source, initializers=config.initializers)
    subject, about_records = with_records(file, None if baseline is None else Path(baseline))
    parts = [about_records, *_examined(subject, data, config, report, config.run.limits.of(file.original))]
    if checkpoint is not None:
        report("checkpoint", 0, 1)
        parts.append(with_checkpoint(file, Path(checkpoint), epsilon=config.epsilon))
    read = FileReport(path="<ModelProto>" if file.path is None else str(file.path), sha256=file.sha256)
    return assemble(subject, parts, read, config.thresholds, config.suppressions, __version__)


def _examined(
    subject: Subject, data: Given | None, config: CheckConfig, progress: Progress, limits: Limits
) -> Iterator[Part]:
    """The examiners, in the order in which later ones may rest on earlier ones."""
    source = None if data is None else open_data(data, subject.model, config.data)  # a mistake there is said at once
    progress("file", 0, 1)
    from_the_file = from_file(subject, config.thresholds)
    yield from_the_file
    if source is not None:
        found = from_the_file.findings
        settings = replace(_run(config), limits=limits)
        yield run_with_data(subject, source, config.thresholds, found=found, settings=settings, progress=progress)


def _run(config: CheckConfig) -> DataSettings:
    """What is known of the preparation of the data is tried as a hypothesis."""
    training = config.run.training if config.run.training.mean or config.run.training.std else None
    return replace(config.run, seed=config.data.seed, training=training or Training(config.data.mean, config.data.std))


def exit_code(report: CheckReport, *, fail_on: str = "error", strict: bool = False) -> int:
    """0 or 1, as the command line returns it.

    Args:
        report: of a check.
        fail_on: the mildest severity that counts; "never" lets every finding pass.
        strict: an inconclusive verdict is a refusal.
    """
    return Bar(fail_on, strict).exit_code(report)
