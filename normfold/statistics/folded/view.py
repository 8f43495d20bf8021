"""A folded model as it would be with its normalisations: what everything that examines statistics can read.

Where a record says that tensor y is the result of a normalisation, y is taken back to what was normalised, and normalised
again (§10.1):

    x = μ + √(v + ε)·(y − β)/γ          y = γ·(x − μ)/√(v + ε) + β

which changes nothing but makes x, and a BatchNormalization with its statistics, visible. The view is a model in memory: it
is run and measured, never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from normfold.model import dtypes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.model.load import Model
from normfold.model.patch import Candidate
from normfold.model.shapes import Shapes
from normfold.model.write import to_bytes
from normfold.statistics.exact_sums import Float64
from normfold.statistics.folded.records import Record, by_tensor
from normfold.statistics.probes.graph_edit import Writer, free_prefix

# A channel with a smaller share of the median |γ| cannot be taken back: it is treated as if it had this one, which no
# judgement gives any weight (§10.1).
_SMALLEST_SHARE = 0.99e-3
# Before this opset operands do not broadcast as they do now, and BatchNormalization has another meaning.
_FIRST_OPSET = 7


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What `unfolded` makes.

    Args:
        proto: the model with normalisations, external data taken in.
        records: those that are in it, by name of the tensor that their normalisation makes.
        skipped: records that are not, by label, with the reason.
    """

    proto: ModelProto
    records: dict[str, Record]
    skipped: dict[str, str]


def unfolded(model: Model, records: Sequence[Record]) -> View:
    """The view of a folded model.

    Args:
        model: folded; not changed.
        records: of its manifest, or of a baseline.

    Raises:
        InputError: `input.proto_2gib`, it is too large for memory.
    """
    candidate = Candidate(model, {}, {})
    constants = Constants()
    shapes = Shapes(constants)
    prefix = free_prefix(model)
    taken = {node.proto.name for scope in model.scopes() for node in scope.nodes}
    present: dict[str, Record] = {}
    skipped: dict[str, str] = {}
    for index, (name, record) in enumerate(by_tensor(records).items()):
        value = model.graph.values.get(name)
        reason = _obstacle(model, value, record, shapes)
        if reason or value is None or value.producer is None:
            skipped[record.label] = reason
            continue
        insertion = _Insertion(candidate, value, record, f"{prefix}/folded{index}", shapes, _free(record.label, taken))
        present[insertion.insert()] = record
    return View(ModelProto.FromString(to_bytes(candidate)), present, skipped)


def _obstacle(model: Model, value: Value | None, record: Record, shapes: Shapes) -> str:
    """Why a record cannot be shown, "" where it can."""
    if value is None:
        return f"the model has no tensor {record.tensor!r}: it was changed since"
    if value.producer is None:
        return f"{record.tensor!r} is an input of the model"
    if model.graph.version < _FIRST_OPSET:
        return f"opset {model.graph.version} is older than {_FIRST_OPSET}"
    dims = shapes.dims(value)
    if dims is None:
        return f"the rank of {record.tensor!r} is not known"
    if len(dims) < 2 or (isinstance(dims[1], int) and dims[1] != record.channels):
        return f"{record.tensor!r} has the shape {list(dims)}, recorded were {record.channels} channels on axis 1"
    if not np.isfinite(np.stack((record.gamma, record.beta, record.mean, record.var))).all():
        return "its recorded parameters are not finite"
    if (record.var + record.epsilon <= 0).any():
        return "its recorded variance is not positive"
    return ""


def _free(label: str, taken: set[str]) -> str:
    """What the normalisation is called: a runtime refuses two nodes of one name, and an operator may have that of its own."""
    name = label
    while name in taken:
        name += "/output"
    taken.add(name)
    return name


def usable_gamma(record: Record) -> Float64:
    """γ, with channels that cannot be taken back lifted to the smallest share that can."""
    least = _SMALLEST_SHARE * float(np.median(np.abs(record.gamma))) or 1.0
    return np.where(unseen(record), np.where(record.gamma < 0, -least, least), record.gamma)


def unseen(record: Record) -> NDArray[np.bool_]:
    """`[C]`, channels whose γ is so small that what was normalised cannot be told from the result."""
    return np.abs(record.gamma) < (_SMALLEST_SHARE * float(np.median(np.abs(record.gamma))) or 1.0)


class _Insertion:
    """Puts one normalisation behind what makes a tensor."""

    def __init__(
        self, candidate: Candidate, value: Value, record: Record, prefix: str, shapes: Shapes, label: str
    ) -> None:
        node = value.producer
        assert node is not None
        self.value, self.record, self.node, self.prefix, self.label = value, record, node, prefix, label
        self.patch = candidate.patch(value.scope)
        self.graph = Writer.beside(self.patch, node, prefix, behind=True)
        dims, self.stored = shapes.dims(value), shapes.data_type(value) or dtypes.FLOAT
        self.rank = len(dims or ())
        self.data_type = dtypes.DOUBLE if self.stored == dtypes.DOUBLE else dtypes.FLOAT

    def insert(self) -> str:
        """Write the operators; the name of what the normalisation makes."""
        name = self.value.name
        raw = self._renamed(self.node)
        value = raw if self.stored == self.data_type else self.graph.cast(raw, self.data_type)
        gamma = usable_gamma(self.record)
        scale = np.sqrt(self.record.var + self.record.epsilon) / gamma
        shift = self.record.mean - self.record.beta * scale
        direct = self.stored == self.data_type
        if self.record.side == "output":
            x = self._affine(value, scale, shift)
            y = self._normalised(x, gamma, name if direct else "")
            made = y
            if not direct:
                self.graph.operator("Cast", [y], name, to=self.stored)
        else:
            made = self._normalised(value, gamma, "")
            back = self._affine(made, scale, shift, name if direct else "")
            if not direct:
                self.graph.operator("Cast", [back], name, to=self.stored)
        return made

    def _renamed(self, node: Node) -> str:
        """Give the operator another output, so that the name is free for the end of what is inserted."""
        raw = f"{self.prefix}/raw"
        patch = self.patch.node(node.index)
        names = patch.outputs if patch.outputs is not None else list(node.proto.output)
        names[self.value.output_slot] = raw
        patch.outputs = names
        return raw

    def _affine(self, value: str, scale: Float64, shift: Float64, output: str = "") -> str:
        dims = (1, -1, *(1,) * (self.rank - 2))
        scaled = self.graph.operator("Mul", [value, self.graph.constant(scale.reshape(dims), self.data_type)])
        return self.graph.operator("Add", [scaled, self.graph.constant(shift.reshape(dims), self.data_type)], output)

    def _normalised(self, value: str, gamma: Float64, output: str) -> str:
        record = self.record
        vectors = (gamma, record.beta, record.mean, record.var)
        parameters = [self.graph.constant(vector, self.data_type) for vector in vectors]
        made = self.graph.operator("BatchNormalization", [value, *parameters], output, epsilon=record.epsilon)
        self.graph.rename_last(self.label)
        return made
