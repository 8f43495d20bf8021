"""Classes of the samples, by which a repair is judged: what is none is refused, because it would agree with no answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from normfold.errors import InputError
from normfold.statistics.collect import Array, Collected, DataSource
from normfold.statistics.recalibration.split import Split


def read_labels(given: Sequence[int] | Array, source: DataSource, *, limited: bool) -> Array:
    """`[N]` integers.

    Args:
        given: in the order of the data.
        source: of the samples; a last batch that is too short for the model may be left out of it.
        limited: whether only the first samples of the data are read, so that there may be more labels.

    Raises:
        InputError: `data.labels`.
    """
    labels = np.asarray(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iuf" or not np.array_equal(labels, np.trunc(labels)):
        raise _wrong(
            f"labels of type {labels.dtype} and shape {list(labels.shape)}", "give one class number for each sample"
        )
    if labels.size and labels.min() < 0:
        raise _wrong(f"a label of {labels.min():g}", "number the classes from 0")
    samples = source.samples
    if samples is not None and not 0 <= len(labels) - samples < (np.inf if limited else source.batch_size):
        raise _wrong(f"{len(labels)} labels for {samples} samples", "give one label for each sample")
    return labels.astype(np.int64)


def of_part(labels: Array, part: Split) -> Array:
    """The labels of the samples of a part.

    Raises:
        InputError: there are fewer labels than samples.
    """
    positions = np.fromiter(part.positions(), np.int64)
    if positions.size and positions.max() >= len(labels):
        raise _wrong(f"{len(labels)} labels for more than {positions.max()} samples", "give one label for each sample")
    return labels[positions]


def require_classes(labels: Array, found: Collected) -> None:
    """The model answers with a score for each class, and there is one for every label.

    Raises:
        InputError: `data.labels`.
    """
    scores = next(iter(found.outputs.values()), None)
    if scores is None or scores.ndim != 2 or scores.shape[1] < 2:
        what = "no output of floats for each sample" if scores is None else f"one of shape [N{_dims(scores.shape[1:])}]"
        raise _wrong(
            f"labels for a model whose first output is {what}", "leave them out: they need scores [N, classes]"
        )
    if labels.size and labels.max() >= scores.shape[1]:
        raise _wrong(f"a label of {labels.max()} for {scores.shape[1]} classes", "number the classes from 0")


def _dims(dims: Sequence[int]) -> str:
    return "".join(f", {dim}" for dim in dims)


def _wrong(what: str, hint: str) -> InputError:
    return InputError("data.labels", what, hint=hint)
