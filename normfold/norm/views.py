"""The shape of a tensor in terms of the dimensions of the base: which atoms stand where.

An *atom* is the coarsest factor of a dimension of the base that every Reshape respects; static extents of 1 have none. A
dimension of a tensor is a list of atoms; one that `keepdims=1` collapsed is a *ghost*: of extent 1, and still knowing its
atoms. Operands are aligned by atoms and not by extents, so that a statistic never meets a dimension that only happens to
be as long (`norm-fusion`, section 2.1).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

Atoms = tuple[int, ...]


class Axis(NamedTuple):
    """One dimension of a tensor: the atoms that it runs over, and whether it has collapsed to extent 1."""

    atoms: Atoms
    is_ghost: bool = False

    @property
    def real(self) -> Atoms:
        """The atoms that it really runs over."""
        return () if self.is_ghost else self.atoms

    @property
    def is_unit(self) -> bool:
        """Whether its extent is 1."""
        return self.is_ghost or not self.atoms


View = tuple[Axis, ...]
UNIT = Axis(())


class SplitError(Exception):
    """A Reshape cuts an atom: the frame must start again with finer ones.

    Args:
        atom: which one.
        factors: the extents of its parts.
    """

    def __init__(self, atom: int, factors: tuple[int, int]) -> None:
        super().__init__(atom, factors)
        self.atom = atom
        self.factors = factors


def real_atoms(view: View) -> Atoms:
    """The atoms that a tensor really runs over, in order."""
    return tuple(atom for axis in view for atom in axis.real)


def is_sound(view: View) -> bool:
    """Whether no atom stands twice: two dimensions that run over one are an outer product, `x_i - x_j` and not `x - x`."""
    atoms = real_atoms(view)
    return len(set(atoms)) == len(atoms)


def labelled(view: View, layouts: Iterable[View], axes: Collection[int]) -> View:
    """The view with dimensions of extent 1 as ghosts of what stood there before a reduction.

    `keepdims=0` and an Unsqueeze behind it leave dimensions without atoms. Any name is right for a dimension of extent 1;
    that of the layout that the rest agrees with is the one under which parameters meet it.

    Args:
        view: where some dimensions of extent 1 have no atoms.
        layouts: views that run over every atom.
        axes: atoms that are reduced: no other dimension can have collapsed.
    """
    for layout in layouts:
        pairs = list(zip(view, layout, strict=False))
        if len(layout) == len(view) and all(_can_be(axis, full, axes) for axis, full in pairs):
            return tuple(Axis(full.atoms, True) if axis.is_unit and full.atoms else axis for axis, full in pairs)
    return view


def _can_be(axis: Axis, full: Axis, axes: Collection[int]) -> bool:
    return axis.real == full.real or (axis.is_unit and all(atom in axes for atom in full.atoms))


def aligned(a: View, b: View) -> View | None:
    """The view of an elementwise result; None where operands meet that do not belong together."""
    if a == b:
        return a
    rank = max(len(a), len(b))
    first = (UNIT,) * (rank - len(a)) + a
    second = (UNIT,) * (rank - len(b)) + b
    met = [_meet(x, y) for x, y in zip(first, second, strict=True)]
    return None if any(axis is None for axis in met) else tuple(axis for axis in met if axis is not None)


def _meet(a: Axis, b: Axis) -> Axis | None:
    if not a.is_unit and not b.is_unit:
        return a if a.atoms == b.atoms else None
    if a.is_unit and b.is_unit:
        return a if a.atoms else b
    return b if a.is_unit else a


def extent(axis: Axis, extents: Sequence[int]) -> int:
    """How long a dimension is."""
    total = 1
    for atom in axis.real:
        total *= extents[atom]
    return total


def sizes(view: View, extents: Sequence[int]) -> list[int]:
    """How long every dimension is."""
    return [extent(axis, extents) for axis in view]


def reshaped(view: View, target: Sequence[int], extents: Sequence[int]) -> View | None:
    """The view of the same elements under another shape; None where it cannot be said in atoms.

    Args:
        view: before.
        target: extents after, all of them positive.
        extents: of the atoms.

    Raises:
        SplitError: a dimension of the target ends inside of an atom.
    """
    units = [axis for axis in view if axis.is_unit]
    same_units = len(units) == sum(size == 1 for size in target)
    left = list(real_atoms(view))[::-1]
    result: list[Axis] = []
    for size in target:
        if size == 1:
            result.append(units.pop(0) if same_units else UNIT)
            continue
        taken: list[int] = []
        while size > 1 and left:
            atom = left.pop()
            if size % extents[atom]:
                if extents[atom] % size:
                    return None
                raise SplitError(atom, (size, extents[atom] // size))
            size //= extents[atom]
            taken.append(atom)
        if size > 1:
            return None
        result.append(Axis(tuple(taken)))
    return None if left else tuple(result)


def reduced(view: View, axes: Iterable[int], *, keep: bool) -> View:
    """The view without some dimensions, or with ghosts in their place."""
    gone = set(axes)
    if keep:
        return tuple(Axis(axis.atoms, bool(axis.atoms)) if i in gone else axis for i, axis in enumerate(view))
    return tuple(axis for i, axis in enumerate(view) if i not in gone)
