"""How large a model may be before it is refused: bounds that no honest exporter comes near, so that a small file cannot ask
for memory or time out of proportion to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches

from normfold.errors import InputError, UsageError

# protobuf itself stops at 100 nested messages, and one subgraph takes three.
DEEPEST = 30
MOST_ELEMENTS = (1 << 63) - 1  # what a number of the format can say


@dataclass(frozen=True, slots=True)
class Caps:
    """Bounds of one model; a file beyond one of them is refused.

    Args:
        entries: nodes, initializers, inputs and everything else that stands in graphs and functions, all together.
        parts: attributes, inputs and outputs of one node.
        elements: of one tensor; the product of its declared dimensions.
        tensor_bytes: of one tensor.
        files: of external data.
        name_length: characters of a name.
        expanded_nodes: that a call of a function stands for, with all that it calls in its place.
        subgraph_depth: how deep graphs are nested in nodes, at most 30.
    """

    entries: int = 2_000_000
    parts: int = 1_000_000
    elements: int = MOST_ELEMENTS
    tensor_bytes: int = 1 << 42
    files: int = 100_000
    name_length: int = 1 << 16
    expanded_nodes: int = 10_000_000
    subgraph_depth: int = DEEPEST

    @classmethod
    def of(cls, specs: Iterable[str]) -> Caps:
        """The bounds that options ask for, `entries=5000000` each; later ones count.

        Raises:
            UsageError: `usage.cap`.
        """
        most = {entry.name: DEEPEST if entry.name == "subgraph_depth" else MOST_ELEMENTS for entry in fields(cls)}
        wanted: dict[str, int] = {}
        for spec in specs:
            name, _, number = spec.partition("=")
            key = name.replace("-", "_")
            if key not in most:
                near = get_close_matches(key, most, 1)
                known = f"did you mean {_shown(near[0])}?" if near else f"there are {', '.join(map(_shown, most))}"
                raise UsageError("usage.cap", f"no bound is called {name!r}", hint=known)
            if not (number.isascii() and number.isdigit() and len(number) < 20 and 1 <= int(number) <= most[key]):
                hint = f"write {_shown(key)}=N with N from 1 to {most[key]}"
                raise UsageError("usage.cap", f"{spec!r} is no bound", hint=hint)
            wanted[key] = int(number)
        return replace(cls(), **wanted)

    def exceeded(self, name: str, what: str, code: str = "resource.cap") -> InputError:
        """The refusal of a model that goes beyond the bound of that name.

        Args:
            name: of the field.
            what: has more than it allows, as a sentence without its end.
            code: of the error.
        """
        limit: int = getattr(self, name)
        hint = f"--cap {_shown(name)}=N allows more"
        if name == "subgraph_depth" and limit == DEEPEST:
            hint = "no runtime reads that"
        return InputError(code, f"{what} more than {limit}", hint=hint)


def _shown(name: str) -> str:
    return name.replace("_", "-")


DEFAULT_CAPS = Caps()
