"""What calls tell about functions and functions about calls: shapes and element types across the border of a body."""

from __future__ import annotations

from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.model.inline import Inlined
from normfold.model.shapes import Known, Shapes

_UNKNOWN: Known = (None, None)


class Signatures:
    """Answers what is known about a value because shapes can be followed through calls once all of them are inlined.

    Args:
        everything: the model with all calls inlined. The values asked for are those of the same model with none or some of
            them inlined; nodes have the same keys there.
    """

    def __init__(self, everything: Inlined) -> None:
        self._everything = everything
        self._shapes = Shapes(Constants())
        scopes = everything.model.graph.walk() if everything.calls else ()
        self._scopes = {scope.path: scope for scope in scopes}
        self._nodes: dict[str, Node] = {node.key: node for scope in self._scopes.values() for node in scope.nodes}
        self._inputs: dict[int, Known] = {}  # of functions, by identity
        if not everything.refused:  # else a function may be called from somewhere that nothing is known about
            self._collect()

    def __call__(self, value: Value) -> Known:
        """Dimensions and element type, None where they are not known."""
        node = value.producer
        if node is None:
            return self._inputs.get(id(value), _UNKNOWN)
        call = self._everything.calls.get(node.key)
        if call is not None:
            return self._named(call.scope, call.outputs[value.output_slot])
        same = self._nodes.get(node.key)
        return _UNKNOWN if same is None else self._known(same.outputs[value.output_slot])

    def _known(self, value: Value | None) -> Known:
        return _UNKNOWN if value is None else (self._shapes.dims(value), self._shapes.data_type(value))

    def _named(self, scope: str, name: str) -> Known:
        return self._known(self._scopes[scope].lookup(name) if name else None)

    def _collect(self) -> None:
        """What all calls of a function pass in the same form."""
        for call in self._everything.calls.values():
            inputs = call.function.scope.inputs
            names = (*call.inputs, *[""] * (len(inputs) - len(call.inputs)))
            for value, name in zip(inputs, names, strict=True):
                form = self._named(call.scope, name)
                self._inputs[id(value)] = _common(self._inputs.get(id(value), form), form)


def _common(one: Known, other: Known) -> Known:
    """What holds for both."""
    dims = None
    if one[0] is not None and other[0] is not None and len(one[0]) == len(other[0]):
        dims = tuple(a if a == b else None for a, b in zip(one[0], other[0], strict=True))
    return dims, one[1] if one[1] == other[1] else None
