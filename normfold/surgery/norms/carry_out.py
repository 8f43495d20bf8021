"""Edits and the newer opset that they need -> the model with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normfold.model.graph import Node, Scope
from normfold.model.load import Model
from normfold.model.rewrite import Rewrite, rewrite, sweep
from normfold.surgery.norms.edits import NormEdit
from normfold.surgery.norms.layout import TurnEdit
from normfold.surgery.norms.opset import Raised


def carried_out(
    model: Model,
    edits: Sequence[NormEdit],
    turns: Sequence[TurnEdit],
    conversions: Mapping[Scope, Mapping[int, Raised]],
    opset: int,
) -> Model:
    """The model with its norms spelled anew.

    Args:
        model: not changed.
        edits: of norms of this very model.
        turns: the parts of scopes that work channels-last, which no edit touches.
        conversions: what other nodes become under the newer opset, by scope and index.
        opset: the version that the model will import.
    """
    if not edits and not turns:
        return model
    changes = {id(turn.scope): turn.rewrite for turn in turns}
    for edit in edits:
        _note(changes, edit)
    for node in _shared(edits):
        _forget(changes, node)
    for scope, new in conversions.items():
        change = changes.setdefault(id(scope), Rewrite())
        for index, conversion in new.items():
            if index not in change.nodes:
                change.nodes[index] = [*conversion.before, conversion.proto]
                change.constants += conversion.tensors
    return rewrite(model, changes, _imports(model, [*edits, *turns], opset))


def _shared(edits: Sequence[NormEdit]) -> list[Node]:
    """Nodes that no norm took with it, because others needed them, and that nobody needs once all are gone."""
    gone = {id(node): node for edit in edits for node in edit.gone}
    read = {name for edit in edits for node in edit.nodes for name in node.input}
    return [node for node in sweep(list(gone.values()), read) if id(node) not in gone]


def _forget(changes: dict[int, Rewrite], node: Node) -> None:
    change = changes.setdefault(id(node.scope), Rewrite())
    change.nodes[node.index] = []
    change.forgotten |= {value.name for value in node.outputs if value is not None}


def _note(changes: dict[int, Rewrite], edit: NormEdit) -> None:
    """One edit among the changes of its scope."""
    for node in edit.gone:
        _forget(changes, node)
    change = changes[id(edit.extent.place.scope)]
    change.nodes[edit.extent.place.index] = list(edit.nodes)
    change.constants += edit.constants
    change.forgotten -= {name for node in edit.nodes for name in node.output}


def _imports(model: Model, edits: Sequence[NormEdit | TurnEdit], opset: int) -> Mapping[str, Mapping[str, int]]:
    """The opset imports of the roots in which something changes."""
    domains: dict[str, dict[str, int]] = {}
    for edit in edits:
        root = edit.scope.root
        for path in {root.path, model.graph.path}:
            domains.setdefault(path, {}).update(edit.domains)
    found: dict[str, dict[str, int]] = {}
    for root in model.roots:
        new = {**domains.get(root.path, {}), **root.opset}
        if root.version and root.version < opset:
            new[""] = opset
        if new != root.opset:
            found[root.path] = new
    return found
