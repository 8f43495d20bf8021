"""A baseline: the moments that trusted data has behind every operator with weights, for models that hold no statistics.

Each becomes a record with the identity around it, γ = √(v + ε), β = μ = m, so that later data is judged in the same way as
against a normalisation.
"""

from __future__ import annotations

import hashlib

import numpy as np

from normfold.errors import InputError
from normfold.model import dtypes
from normfold.model.load import Model
from normfold.statistics.collect import Collected
from normfold.statistics.folded.finding import Shown, shown
from normfold.statistics.folded.records import Record, Records
from normfold.statistics.subject import Subject

_HOSTS = ("Conv", "ConvTranspose", "Gemm")
_EPSILON = float(np.float32(1e-5))


def measurable(file: Subject) -> Shown:
    """A view in which what every Conv, ConvTranspose and Gemm makes is in front of a normalisation that changes nothing.

    Raises:
        InputError: `baseline.nothing`, there is no such operator.
    """
    records = []
    shapes = file.shapes if file.model is file.original else None
    for node in file.original.graph.nodes:
        if node.op_type not in _HOSTS or node.domain or shapes is None or file.constants.get(node.output) is not None:
            continue
        dims = shapes.dims(node.output)
        channels = dims[1] if dims is not None and len(dims) > 1 else None
        if isinstance(channels, int) and dtypes.is_float(shapes.data_type(node.output) or dtypes.FLOAT):
            records.append(_record(node.output.name, node.label, node.key, np.zeros(channels), np.ones(channels)))
    if not records:
        raise InputError(
            "baseline.nothing", "no Conv or Gemm with a known number of channels stands in the graph",
            where=str(file.path or ""), hint="inline functions and infer shapes first",
        )  # fmt: skip
    return shown(file, Records("baseline", tuple(records), identity(file.original)))


def recorded(seen: Shown, found: Collected, data: str) -> Records:
    """The baseline of a measurement of `measurable`."""
    records = []
    for key, record in seen.by_site.items():
        if key in found.moments:
            estimate = found.moments[key].estimate()
            if np.isfinite(estimate.mean).all():
                records.append(_record(record.tensor, record.label, record.key, estimate.mean, estimate.var))
    return Records("baseline", tuple(records), seen.records.source_sha256, data)


def identity(model: Model) -> str:
    """SHA-256 of the file of a model."""
    return hashlib.sha256(model.buffer).hexdigest()


def _record(tensor: str, label: str, key: str, mean: np.ndarray, var: np.ndarray) -> Record:
    return Record(tensor, "output", label, key, "", _EPSILON, np.sqrt(var + _EPSILON), mean, mean, var)
