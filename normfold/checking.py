"""`check`: what is wrong with the normalisation state of a model, from the file, with data, against a reference.

The examiners (`normfold.statistics`) look at one `Subject` and hand back a `Part` each; here they are called in order and put
together. An examiner that is new is one more call in `_examined`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from onnx import ModelProto
from pydantic import ConfigDict

from normfold._version import __version__
from normfold.documents import DocumentValue, FileReport
from normfold.model.load import Initializers
from normfold.model.source import Source
from normfold.statistics.assemble import assemble
from normfold.statistics.from_file import from_file
from normfold.statistics.part import Part
from normfold.statistics.schema import CheckReport, Severity, Status
from normfold.statistics.subject import Subject, open_subject
from normfold.statistics.suppressions import Suppression
from normfold.statistics.thresholds import Thresholds

Progress = Callable[[str, int, int], None]


class CheckConfig(DocumentValue):
    """Settings of `check`.

    Args:
        thresholds: every limit.
        suppressions: findings that are known and do not count.
        initializers: what to do with initializers that are also graph inputs.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    thresholds: Thresholds = Thresholds()
    suppressions: tuple[Suppression, ...] = ()
    initializers: Initializers = Initializers.AUTO


def check(
    source: str | Path | Source | ModelProto,
    *,
    config: CheckConfig | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Examine the normalisation state of a model.

    Args:
        source: the model; it is not changed.
        config: limits and suppressions.
        progress: called with a stage, how much is done, and how much there is.

    Raises:
        InputError: the model cannot be read.
    """
    config = config or CheckConfig()
    report = progress or (lambda *_: None)
    report("reading", 0, 1)
    subject = open_subject(source, initializers=config.initializers)
    parts = list(_examined(subject, config, report))
    file = FileReport(path="<ModelProto>" if subject.path is None else str(subject.path), sha256=subject.sha256)
    return assemble(subject, parts, file, config.thresholds, config.suppressions, __version__)


def _examined(subject: Subject, config: CheckConfig, progress: Progress) -> Iterator[Part]:
    """The examiners, in the order in which later ones may rest on earlier ones."""
    progress("file", 0, 1)
    yield from_file(subject, config.thresholds)


def exit_code(report: CheckReport, *, fail_on: str = "error", strict: bool = False) -> int:
    """0 or 1, as the command line returns it.

    Args:
        report: of a check.
        fail_on: the mildest severity that counts; "never" lets every finding pass.
        strict: an inconclusive verdict is a refusal.
    """
    if strict and any(
        status is Status.INCONCLUSIVE for status in (report.verdict, *(layer.status for layer in report.layers))
    ):
        return 1
    if fail_on == "never":
        return 0
    limit = Severity(fail_on).rank
    return int(any(found.severity.rank <= limit for found in report.counted() if found.is_root_cause))
