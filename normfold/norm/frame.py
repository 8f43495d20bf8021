"""One run of the analysis: a base tensor, the axes that are reduced, and what every tensor near them is a function of.

A frame walks forward from its base in execution order. A tensor that has no form is a border: what is behind it is not
looked at. Where a Reshape cuts a dimension of the base, the frame starts again with finer atoms.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

import numpy as np

from normfold.errors import InputError
from normfold.model import dtypes
from normfold.model.graph import Node, Scope, Value
from normfold.model.shapes import Shapes
from normfold.model.tensors import Unreadable
from normfold.norm.filled import collapsed, filled, is_filled
from normfold.norm.forms import THE_BASE, Coefficient, Form
from normfold.norm.numbers import Extents
from normfold.norm.views import UNIT, Axis, View, aligned, extent, is_sound, labelled, real_atoms, sizes

# Nodes from the base that are looked at, and elements of a constant that are.
_MOST_NODES, _MOST_ELEMENTS = 96, 1 << 22
_MOST_AXES = 12  # of a tensor


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """What is known about a tensor in a frame.

    Args:
        form: its value as a function of the base.
        view: its shape in atoms of the base.
        data_type: ONNX element type.
        narrowest: the narrowest float type that the value was rounded to on its way.
        parameters: the widest type of the constants of more than one element that went into it, 0 if there were none.
        partial: atoms over which a mean was taken whose other atoms are still to come; empty where none is under way.
    """

    form: Form
    view: View
    data_type: int
    narrowest: int
    parameters: int = 0
    partial: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """An operand that is no function of the base: its elements, and the type that they are stored in."""

    values: np.ndarray  # float64
    data_type: int


Operand = Fact | Constant | None
Transfer = Callable[["Frame", Node], "Sequence[Fact | None] | None"]


@dataclass(slots=True, eq=False)
class Frame:
    """The facts about tensors near one base.

    Args:
        base: the tensor x.
        scope: the only scope whose nodes are looked at.
        shapes, extents: of the model.
        parts: extents of the atoms of each dimension of the base.
        axes: atoms that the statistics are taken over.
    """

    base: Value
    scope: Scope
    shapes: Shapes
    extents: Extents
    parts: list[list[int]]
    axes: frozenset[int] = frozenset()
    atoms: list[int] = field(default_factory=list)  # extents of all atoms
    view: View = ()
    facts: dict[int, Fact] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)  # those that made a fact, in execution order
    layouts: list[View] = field(default_factory=list)  # views met so far that run over every atom
    close: float = 2.0**-21

    def __post_init__(self) -> None:
        self.atoms = [size for part in self.parts for size in part]
        view: list[Axis] = []
        first = 0
        for part in self.parts:
            view.append(Axis(tuple(range(first, first + len(part)))) if part else UNIT)
            first += len(part)
        self.view = tuple(view)
        self.restart()

    def restart(self) -> None:
        """Forget all facts but that about the base."""
        kind = self.shapes.data_type(self.base) or dtypes.FLOAT
        # Four units in the last place of the type that constants are stored in.
        self.close = 8.0 * dtypes.unit_roundoff(kind) if dtypes.is_float(kind) else 2.0**-21
        self.facts = {id(self.base): Fact(THE_BASE, self.view, kind, kind)}
        self.layouts = [self.view]

    # --- what transfer functions ask ---

    def fact(self, value: Value | None) -> Fact | None:
        """What is known about a tensor."""
        return self.facts.get(id(value))

    def operand(self, value: Value | None) -> Operand:
        """A fact, a constant, or None for what is neither."""
        fact = self.fact(value)
        return fact if fact is not None else self.constant(value)

    def constant(self, value: Value | None) -> Constant | None:
        """The elements of a float constant, of a number computed of extents, or of ones and zeros in a computed shape."""
        if value is None:
            return None
        source = self.shapes.constants.get(value)
        if source is None:
            numbers = self.extents.numbers(value, self.known_extents)
            if numbers is None:
                numbers = filled(self.extents, value, self.known_extents)
            if numbers is None or numbers.dtype == object:
                return None
            return Constant(numbers, self.shapes.data_type(value) or dtypes.FLOAT)
        if math.prod(source.dims) > _MOST_ELEMENTS:
            return None
        try:
            array = source.array()
        except (Unreadable, InputError):
            return None
        if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
            return None
        return Constant(np.asarray(array, np.float64), source.data_type)

    def known_extents(self, value: Value) -> list[int] | None:
        """The extents of a tensor that has a fact."""
        fact = self.facts.get(id(value))
        return None if fact is None else sizes(fact.view, self.atoms)

    def scalar(self, value: Value | None) -> float | None:
        """A constant of one element."""
        found = self.constant(value)
        return float(found.values.reshape(())) if found is not None and found.values.size == 1 else None

    def count(self, atoms: Iterable[int]) -> int:
        """How many elements some atoms run over."""
        return math.prod(self.atoms[atom] for atom in atoms)

    def meets(self, values: np.ndarray, view: View) -> tuple[Coefficient, View] | None:
        """A constant as a coefficient of a tensor, and the view of their elementwise result.

        The coefficient has extent 1 along every atom that it does not vary along, whatever the shape of the constant; where
        it varies along nothing it is one number. None where the constant would enlarge the tensor.
        """
        if values.size == 1:
            grown = (UNIT,) * max(0, values.ndim - len(view)) + view
            return float(values.reshape(())), grown
        view = (UNIT,) * (values.ndim - len(view)) + view
        shape = (1,) * (len(view) - values.ndim) + values.shape
        if any(size > 1 and not axis.atoms for axis, size in zip(view, shape, strict=True)):
            view = labelled(view, self.layouts, self.axes)
        result = list(view)
        wanted = [1] * len(self.atoms)
        order: list[int] = []  # atoms that the constant varies along, in its own order
        for i, (axis, size) in enumerate(zip(view, shape, strict=True)):
            if size == 1:
                continue
            atoms = axis.atoms
            if math.prod(self.atoms[atom] for atom in atoms) != size:
                return None
            result[i] = Axis(atoms)
            order += atoms
        for atom in order:
            wanted[atom] = self.atoms[atom]
        if len(set(order)) != len(order):
            return None
        if is_filled(values):
            return float(collapsed(values).flat[0]), tuple(result)
        array = values.reshape([self.atoms[atom] for atom in order])
        array = array.transpose(np.argsort(order)) if order != sorted(order) else array
        return _varying(np.ascontiguousarray(array).reshape(wanted)), tuple(result)

    def with_constant(self, fact: Fact, constant: Constant) -> tuple[Coefficient, Fact] | None:
        """A constant as a coefficient of a fact, and the fact under the view of their result."""
        met = self.meets(constant.values, fact.view)
        if met is None:
            return None
        coefficient, view = met
        kind = 0 if is_filled(constant.values) else constant.data_type
        return coefficient, replace(fact, view=view, parameters=wider(fact.parameters, kind))

    def together(self, a: Fact, b: Fact) -> Fact | None:
        """What two facts have in common under an elementwise operator; the form is that of the first."""
        view = aligned(a.view, b.view)
        if view is None or a.data_type != b.data_type or a.partial or b.partial:
            return None
        return replace(
            a,
            view=view,
            narrowest=narrower(a.narrowest, b.narrowest),
            parameters=wider(a.parameters, b.parameters),
        )

    def averaged(self, value: Coefficient) -> Coefficient:
        """The mean of a coefficient over the axes."""
        if isinstance(value, float):
            return value
        return np.asarray(value.mean(axis=tuple(self.axes), keepdims=True))

    def varies(self, value: Coefficient, atoms: frozenset[int]) -> bool:
        """Whether a coefficient varies along some atoms."""
        return not isinstance(value, float) and any(value.shape[atom] > 1 for atom in atoms)

    # --- the walk ---

    def run(
        self, transfer: Callable[[Frame, Node], Sequence[Fact | None] | None], position: Callable[[Node], int]
    ) -> None:
        """Work out facts, in execution order, until nothing has a form any more.

        Raises:
            SplitError: the frame must start again with finer atoms.
        """
        heap: list[tuple[int, int, Node]] = []
        seen: set[int] = set()

        def push(value: Value) -> None:
            for use in value.uses:
                if id(use.node) not in seen and use.node.scope is self.scope:
                    seen.add(id(use.node))
                    heapq.heappush(heap, (position(use.node), id(use.node), use.node))

        push(self.base)
        count = 0
        with np.errstate(all="ignore"):  # what is not finite has no form
            while heap and count < _MOST_NODES:
                _, _, node = heapq.heappop(heap)
                count += 1
                made = transfer(self, node)
                kept = [value for value, fact in zip(node.outputs, made or (), strict=False) if self._keep(value, fact)]
                for value in kept:
                    push(value)
                if kept:
                    self.nodes.append(node)

    def _keep(self, value: Value | None, fact: Fact | None) -> TypeGuard[Value]:
        if value is None or fact is None or len(fact.view) > _MOST_AXES or not is_sound(fact.view):
            return False
        self.facts[id(value)] = fact
        self._note_layout(fact.view)
        return True

    def _note_layout(self, view: View) -> None:
        if len(real_atoms(view)) == len(self.atoms) and view not in self.layouts:
            self.layouts.append(view)

    def extent(self, axis: Axis) -> int:
        """How long a dimension is."""
        return extent(axis, self.atoms)


def _varying(array: np.ndarray) -> Coefficient:
    for axis, size in enumerate(array.shape):
        first = array.take([0], axis)
        if size > 1 and (array == first).all():
            array = first
    return float(array.flat[0]) if array.size == 1 else array


def wider(a: int, b: int) -> int:
    """The type with more digits; 0 stands for none."""
    if not a or not b:
        return a or b
    return a if _precision(a) <= _precision(b) else b


def narrower(a: int, b: int) -> int:
    """The type with fewer digits."""
    return a if _precision(a) >= _precision(b) else b


def _precision(data_type: int) -> float:
    return dtypes.unit_roundoff(data_type) if dtypes.is_float(data_type) else 0.0
