"""Which values depend on what the caller gives."""

from __future__ import annotations

from normfold.model.graph import Node, Value
from normfold.statistics.subject import Subject


def input_dependent(subject: Subject) -> set[int]:
    """Identities of the values that a path leads to from an input: of the graph, of a function body, or of a loop body.

    What a control-flow node makes depends on everything that is read inside of it.
    """
    pending: list[Value] = [
        value
        for scope in subject.model.scopes()
        for value in scope.inputs
        if (value.tensor is None and value.sparse_dims is None) or value.exposed
    ]
    seen = {id(value) for value in pending}
    while pending:
        for use in pending.pop().uses:
            node: Node | None = use.node
            while node is not None:
                for made in node.outputs:
                    if made is not None and id(made) not in seen:
                        seen.add(id(made))
                        pending.append(made)
                node = node.scope.owner
    return seen
