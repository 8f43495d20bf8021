"""Edits and the newer opset that they need -> the model with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from normfold.model.graph import Scope
from normfold.model.load import Model
from normfold.model.rewrite import Rewrite, rewrite
from normfold.surgery.norms.edits import NormEdit
from normfold.surgery.norms.opset import Raised


def carried_out(
    model: Model, edits: Sequence[NormEdit], conversions: Mapping[Scope, Mapping[int, Raised]], opset: int
) -> Model:
    """The model with its norms spelled anew.

    Args:
        model: not changed.
        edits: of norms of this very model.
        conversions: what other nodes become under the newer opset, by scope and index.
        opset: the version that the model will import.
    """
    if not edits:
        return model
    changes: dict[int, Rewrite] = {}
    for edit in edits:
        _note(changes, edit)
    for scope, new in conversions.items():
        change = changes.setdefault(id(scope), Rewrite())
        for index, conversion in new.items():
            if index not in change.nodes:
                change.nodes[index] = [*conversion.before, conversion.proto]
                change.constants += conversion.tensors
    return rewrite(model, changes, _imports(model, edits, opset))


def _note(changes: dict[int, Rewrite], edit: NormEdit) -> None:
    """One edit among the changes of its scope."""
    for node in edit.gone:
        change = changes.setdefault(id(node.scope), Rewrite())
        change.nodes[node.index] = []
        change.forgotten |= {value.name for value in node.outputs if value is not None}
    change = changes[id(edit.extent.place.scope)]
    change.nodes[edit.extent.place.index] = list(edit.nodes)
    change.constants += edit.constants
    change.forgotten -= {name for node in edit.nodes for name in node.output}


def _imports(model: Model, edits: Sequence[NormEdit], opset: int) -> Mapping[str, Mapping[str, int]]:
    """The opset imports of the roots in which something changes."""
    domains: dict[str, dict[str, int]] = {}
    for edit in edits:
        root = _root(edit.site.end.scope)
        for path in {root.path, model.graph.path}:
            domains.setdefault(path, {}).update(edit.lowering.domains)
    found: dict[str, dict[str, int]] = {}
    for root in model.roots:
        new = {**domains.get(root.path, {}), **root.opset}
        if root.version and root.version < opset:
            new[""] = opset
        if new != root.opset:
            found[root.path] = new
    return found


def _root(scope: Scope) -> Scope:
    while scope.parent is not None:
        scope = scope.parent
    return scope
