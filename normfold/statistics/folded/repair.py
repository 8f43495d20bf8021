"""New statistics of a normalisation that is folded: the weights that took it take the difference (§10.4).

With V = v + ε before and V₁ = v₁ + ε after, the result of the normalisation changes by a per-channel affine

    y₁ = k·y + t        k = √(V/V₁)        t = γ·(μ − μ₁)/√V₁ + β − k·β

which is what re-estimating the original normalisation would have done, exactly. Weights and bias are scaled in float64 and
rounded once, by the same code that folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from normfold.affine.absorbers import ABSORBERS
from normfold.affine.algebra import Affine, per_channel
from normfold.affine.draft import Absorption, Draft
from normfold.affine.reasons import Refused
from normfold.model.constants import Constants
from normfold.model.graph import Node
from normfold.model.load import Model
from normfold.model.patch import Candidate
from normfold.model.shapes import Shapes
from normfold.statistics.exact_sums import Float64
from normfold.statistics.folded.records import Record
from normfold.statistics.probes.forms import Statistics
from normfold.surgery.apply import apply
from normfold.surgery.plan import Edit, Plan


def host(model: Model, record: Record) -> Node | None:
    """The operator whose weights hold a normalisation, None where they do not alone, or the model was changed."""
    value = model.graph.values.get(record.tensor)
    node = None if value is None else value.producer
    if node is None or record.side != "output" or not record.host or node.domain or node.op_type not in ABSORBERS:
        return None
    return node


def obstacle(model: Model, record: Record) -> str:
    """Why a folded normalisation cannot be repaired, "" where it can."""
    if record.side != "output":
        return (
            "it was folded forward, into the operators that read it, and only one that makes it can be repaired: "
            "recalibrate the original model and fold it again"
        )
    node = host(model, record)
    if node is None:
        return "no single operator holds it: fold it again from the original model"
    draft = _draft(model)
    try:
        trial = _affine(draft, model, record, np.full(record.channels, 2.0), np.ones(record.channels))
        _accepted(draft, node, trial)
    except Refused as reason:
        return f"its weights cannot be changed: {reason.message}"
    return ""


def refolded(model: Model, new: Mapping[str, tuple[Record, Statistics]], metadata: Mapping[str, str]) -> Candidate:
    """The folded model with other statistics in its weights.

    Args:
        model: the folded model.
        new: by name of the tensor, records that `obstacle` has nothing against, and what they are to have.
        metadata: entries of `metadata_props`.
    """
    draft = _draft(model)
    edits: list[Edit] = []
    for record, statistics in new.values():
        node = host(model, record)
        assert node is not None
        scale, shift = difference(record, statistics)
        item = _accepted(draft, node, _affine(draft, model, record, scale, shift))
        draft.absorb([item])
        edits.append(Edit(node.key, (), (item.slot,)))
    plan = Plan(tuple(edits), (), tuple(draft.slots.values()), draft)
    return apply(model, plan, dict(metadata))


def difference(record: Record, statistics: Statistics) -> tuple[Float64, Float64]:
    """k and t, `[C]` each; 1 and 0 where the statistics stay."""
    var = statistics.var + record.epsilon
    k = np.sqrt((record.var + record.epsilon) / var)
    t = record.gamma * (record.mean - statistics.mean) / np.sqrt(var) + record.beta - k * record.beta
    same = (statistics.mean == record.mean) & (statistics.var == record.var)
    return np.where(same, 1.0, k), np.where(same, 0.0, t)


def updated(record: Record, statistics: Statistics) -> Record:
    """The record of what was repaired."""
    return replace(record, mean=statistics.mean, var=statistics.var)


def _accepted(draft: Draft, node: Node, affine: Affine) -> Absorption:
    accept = ABSORBERS[node.op_type].accept
    if accept is None:
        raise Refused("no-absorber", f"{node.op_type} takes nothing that stands behind it", node.label)
    return accept(draft, node, affine)


def _draft(model: Model) -> Draft:
    constants = Constants()
    return Draft(constants, Shapes(constants))


def _affine(draft: Draft, model: Model, record: Record, scale: Float64, shift: Float64) -> Affine:
    """Behind the tensor of a record."""
    dims = draft.shapes.dims(model.graph.values[record.tensor])
    assert dims is not None  # the view has it
    return per_channel(scale, shift, len(dims), 1)
