"""What calls tell about functions and functions about calls: shapes and element types across the border of a body."""

from __future__ import annotations

from collections.abc import Iterator

from normfold.model.constants import Constants
from normfold.model.functions import Functions
from normfold.model.inline import Inlined
from normfold.model.load import Model
from normfold.model.shapes import Dims, Hints, Shapes

Known = tuple[Dims | None, int | None]


def hints(model: Model, everything: Inlined) -> Hints:
    """What is known about the outputs of calls and the inputs of functions.

    Args:
        model: to plan; some of its calls may be inlined.
        everything: the same model with all of them inlined, so that shapes can be followed through.
    """
    if not everything.calls:
        return {}
    return _Collector(model, everything).run()


class _Collector:
    def __init__(self, model: Model, everything: Inlined) -> None:
        self.model = model
        self.everything = everything
        self.shapes = Shapes(Constants())
        self.scopes = {scope.path: scope for scope in everything.model.graph.walk()}
        self.functions = Functions(model.functions)

    def run(self) -> dict[int, Known]:
        found: dict[int, Known] = {}
        for scope in self.model.graph.walk():
            for node, _ in self.functions.calls(scope):
                call = self.everything.calls.get(node.key)
                if call is not None:
                    values = zip(node.outputs, call.outputs, strict=True)
                    found |= {id(v): self._known(call.scope, name) for v, name in values if v is not None}
        if not self.everything.refused:  # else a function may be called from somewhere that nothing is known about
            found |= dict(self._inputs())
        return found

    def _known(self, scope: str, name: str) -> Known:
        value = self.scopes[scope].lookup(name)
        return (None, None) if value is None else (self.shapes.dims(value), self.shapes.data_type(value))

    def _inputs(self) -> Iterator[tuple[int, Known]]:
        """What all calls of a function pass in the same form."""
        forms: dict[int, Known] = {}
        for call in self.everything.calls.values():
            inputs = call.function.scope.inputs
            for value, name in zip(inputs, (*call.inputs, *[""] * len(inputs)), strict=False):
                form = self._known(call.scope, name)
                forms[id(value)] = _common(forms.get(id(value), form), form)
        yield from forms.items()


def _common(one: Known, other: Known) -> Known:
    """What holds for both."""
    dims = None
    if one[0] is not None and other[0] is not None and len(one[0]) == len(other[0]):
        dims = tuple(a if a == b else None for a, b in zip(one[0], other[0], strict=True))
    return dims, one[1] if one[1] == other[1] else None
