"""New statistics of a normalisation that is folded: the weights that took it take the difference (§10.4).

With V = v + ε before and V₁ = v₁ + ε after, what re-estimating the original normalisation would do is a per-channel affine: of
its result y where operators in front took it, and of what it normalised, x, where operators behind did:

    y₁ = k·y + t        k = √(V/V₁)        t = γ·(μ − μ₁)/√V₁ + β − k·β
    x₁ = k·x + u        k as above         u = μ − k·μ₁

because γ·(x₁ − μ)/√V + β = γ·(x − μ₁)/√V₁ + β: the old normalisation of x₁ is the new one of x. Weights and biases are
scaled in float64 and rounded once, by the same code that folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from normfold.affine.absorbers import ABSORBERS
from normfold.affine.algebra import per_channel
from normfold.affine.draft import Draft
from normfold.affine.forward import absorb_forward
from normfold.affine.reasons import Refused
from normfold.affine.search import Found, consistent
from normfold.errors import InputError
from normfold.model.constants import Constants
from normfold.model.graph import Use, Value
from normfold.model.load import Model
from normfold.model.patch import Candidate
from normfold.model.shapes import Shapes
from normfold.statistics.exact_sums import Float64
from normfold.statistics.folded.records import Record
from normfold.statistics.probes.forms import Statistics
from normfold.surgery.apply import apply
from normfold.surgery.plan import Edit, Plan


def obstacle(model: Model, record: Record) -> str:
    """Why a folded normalisation cannot be repaired, "" where it can."""
    c = record.channels
    try:
        _taking(_draft(model), model, record, np.linspace(1.5, 2.5, c), np.linspace(1.0, 2.0, c))
    except _Lost as reason:
        return str(reason)
    except Refused as reason:
        return f"its weights cannot be changed: {reason.message}"
    return ""


def refolded(model: Model, new: Mapping[str, tuple[Record, Statistics]], metadata: Mapping[str, str]) -> Candidate:
    """The folded model with other statistics in its weights.

    Args:
        model: the folded model.
        new: by name of the tensor, records that `obstacle` has nothing against, and what they are to have.
        metadata: entries of `metadata_props`.

    Raises:
        InputError: `recalibrate.range`, weights cannot hold the new statistics.
    """
    draft = _draft(model)
    edits: list[Edit] = []
    for record, statistics in new.values():
        try:
            found = _taking(draft, model, record, *difference(record, statistics))
        except Refused as reason:
            raise InputError(
                "recalibrate.range", f"its weights cannot hold the new statistics: {reason.message}", where=record.label,
                hint="recalibrate the original model and fold it again",
            ) from None  # fmt: skip
        draft.absorb(found.absorptions)
        slots = tuple(item.slot for item in found.absorptions)
        edits.append(Edit(record.key, (), slots, found.crossed))
    plan = Plan(tuple(edits), (), tuple(draft.slots.values()), draft)
    return apply(model, plan, dict(metadata))


def difference(record: Record, statistics: Statistics) -> tuple[Float64, Float64]:
    """Scale and shift of the affine, `[C]` each; 1 and 0 where the statistics stay."""
    var = statistics.var + record.epsilon
    k = np.sqrt((record.var + record.epsilon) / var)
    if record.side == "output":
        t = record.gamma * (record.mean - statistics.mean) / np.sqrt(var) + record.beta - k * record.beta
    else:
        t = record.mean - k * statistics.mean
    same = (statistics.mean == record.mean) & (statistics.var == record.var)
    return np.where(same, 1.0, k), np.where(same, 0.0, t)


def updated(record: Record, statistics: Statistics) -> Record:
    """The record of what was repaired."""
    return replace(record, mean=statistics.mean, var=statistics.var)


class _Lost(Exception):
    """What took a normalisation is not known, or not there any more."""


def _taking(draft: Draft, model: Model, record: Record, scale: Float64, shift: Float64) -> Found:
    """What takes an affine at the tensor of a record.

    Raises:
        _Lost: it cannot be told.
        Refused: something of it cannot.
    """
    value = model.graph.values.get(record.tensor)
    dims = None if value is None else draft.shapes.dims(value)
    if value is None or dims is None:
        raise _Lost("the model was changed since it was folded")
    affine = per_channel(scale, shift, len(dims), 1)
    if record.side == "input":
        draft.restrict(value, _uses(model, record, value))
        return absorb_forward(draft, value, affine)
    node = value.producer
    if node is None or not record.host or node.domain or node.op_type not in ABSORBERS:
        raise _Lost("no single operator holds it: fold it again from the original model")
    accept = ABSORBERS[node.op_type].accept
    if accept is None:
        raise Refused("no-absorber", f"{node.op_type} takes nothing that stands behind it", node.label)
    with consistent(node):
        return Found((accept(draft, node, affine),))


def _uses(model: Model, record: Record, value: Value) -> list[Use]:
    """Who reads a tensor through the normalisation that went into it.

    Raises:
        _Lost: one of them is gone.
    """
    found = []
    for name, slot in record.readers:
        made = model.graph.values.get(name)
        node = None if made is None else made.producer
        read = None if node is None else node.input(slot)
        pad = None if read is None else read.producer
        if node is not None and read is value:
            found.append(Use(node, slot))
        elif read is not None and pad is not None and pad.input(0) is value and len(read.uses) == 1:
            found.append(Use(pad, 0))  # the fold put it between them
        else:
            raise _Lost("the model was changed since it was folded")
    if not found:
        raise _Lost("what read it was folded or merged as well: recalibrate the original model and fold it again")
    return found


def _draft(model: Model) -> Draft:
    constants = Constants()
    return Draft(constants, Shapes(constants))
