"""What changes in a model, in terms of its outline: the input of the splicer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx import AttributeProto, NodeProto, ValueInfoProto

from normfold.model.deferred import Deferred
from normfold.model.graph import Node, Scope
from normfold.model.load import Model
from normfold.model.tensors import NewTensor


@dataclass(slots=True)
class NodePatch:
    """New inputs, outputs, operator or attributes of a node (None: unchanged; an attribute of None is removed)."""

    inputs: list[str] | None = None
    outputs: list[str] | None = None
    op_type: str | None = None
    attributes: dict[str, AttributeProto | None] = field(default_factory=dict)


@dataclass(slots=True)
class ScopePatch:
    """The changes of one graph or function body; nodes and initializers go by their position in the outline.

    `appended` are nodes behind all others, and what is added to inputs and outputs stands behind those that stay.
    """

    nodes: dict[int, NodePatch] = field(default_factory=dict)
    dropped_nodes: set[int] = field(default_factory=set)
    before: dict[int, list[NodeProto]] = field(default_factory=dict)
    after: dict[int, list[NodeProto]] = field(default_factory=dict)
    constants: dict[int, list[NewTensor]] = field(default_factory=dict)
    replaced: dict[int, NewTensor] = field(default_factory=dict)
    dropped_initializers: set[int] = field(default_factory=set)
    added: list[NewTensor] = field(default_factory=list)
    dropped_inputs: set[str] = field(default_factory=set)
    dropped_info: set[str] = field(default_factory=set)
    dropped_outputs: set[str] = field(default_factory=set)
    appended: list[NodeProto] = field(default_factory=list)
    added_inputs: list[ValueInfoProto] = field(default_factory=list)
    added_outputs: list[ValueInfoProto] = field(default_factory=list)

    def node(self, index: int) -> NodePatch:
        """The patch of a node, created if there is none yet."""
        return self.nodes.setdefault(index, NodePatch())


@dataclass(slots=True)
class Candidate:
    """A model and its changes: what is written if it verifies.

    Args:
        model: the original.
        scopes: patches by scope identity; a scope without one is copied.
        owners: the node for which a new tensor was made, by identity of the tensor.
        metadata: entries of `metadata_props` to set; those with our prefix that are not in it are removed.
    """

    model: Model
    scopes: dict[int, ScopePatch]
    metadata: dict[str, str]
    owners: dict[int, Node] = field(default_factory=dict)

    @property
    def is_original(self) -> bool:
        """Whether nothing changes."""
        return not self.scopes and not self.model.is_rewritten

    def patch(self, scope: Scope) -> ScopePatch:
        """The patch of a scope, created if there is none yet."""
        found = self.scopes.get(id(scope))
        if found is None:
            found = self.scopes[id(scope)] = ScopePatch()
        return found

    def new_tensors(self) -> list[NewTensor]:
        """Every tensor that has to be computed, those included that the model has and no file."""
        found = [tensor.new for tensor in self._deferred()]
        for patch in self.scopes.values():
            found += [
                *patch.replaced.values(),
                *patch.added,
                *(t for tensors in patch.constants.values() for t in tensors),
            ]
        return found

    def _deferred(self) -> Iterator[Deferred]:
        for scope in self.model.scopes() if self.model.is_rewritten else ():
            patch = self.scopes.get(id(scope)) or ScopePatch()
            outline = scope.outline
            for index, tensor in enumerate(outline.added, start=len(outline.initializers)):
                gone = index in patch.replaced or index in patch.dropped_initializers
                if isinstance(tensor, Deferred) and not gone:
                    yield tensor
            for index, node in enumerate(outline.nodes):
                if index not in patch.dropped_nodes:
                    yield from (tensor for tensor in node.tensors.values() if isinstance(tensor, Deferred))
