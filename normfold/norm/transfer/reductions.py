"""Means and sums over the axes of the frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from normfold.model import attributes
from normfold.model.graph import Node
from normfold.model.shapes.reductions import reduce_axes
from normfold.norm import forms
from normfold.norm.forms import MM, XM, XX, Coefficient, M, Poly, Q, X
from normfold.norm.frame import Fact, Frame, Transfer
from normfold.norm.transfer.elementwise import power
from normfold.norm.views import reduced

Facts = Sequence[Fact | None] | None
_UNDER_MEAN = {X: M, XX: Q, XM: MM}


def mean(frame: Frame, fact: Fact, axes: Collection[int], *, keep: bool) -> Fact | None:
    """The mean over some dimensions of a tensor."""
    atoms = frozenset(atom for i in axes for atom in fact.view[i].real)
    view = reduced(fact.view, axes, keep=keep)
    if not atoms:
        return replace(fact, view=view)
    done = fact.partial | atoms
    if isinstance(fact.form, Poly) and atoms & frame.axes and (fact.partial or fact.form.has_x):
        if done != frame.axes:
            return replace(fact, view=view, partial=done) if done < frame.axes else None
        form = _mean(frame, fact.form)
        return None if form is None else replace(fact, form=form, view=view, partial=frozenset())
    if isinstance(fact.form, Poly) and atoms == frame.axes:
        form = _mean(frame, fact.form)
        return None if form is None else replace(fact, form=form, view=view)
    return replace(fact, view=view) if _is_constant_along(frame, fact, atoms) else None


def _mean(frame: Frame, form: Poly) -> Poly | None:
    """The mean over all axes of the frame: x becomes m, x² becomes q, x·m becomes m²."""
    terms: dict[str, Coefficient] = {}
    for term, value in form.terms.items():
        if term in _UNDER_MEAN and frame.varies(value, frame.axes):
            return None
        target = _UNDER_MEAN.get(term, term)
        terms[target] = terms.get(target, 0.0) + frame.averaged(value)
    return Poly({term: value for term, value in terms.items() if not forms.is_zero(value)})


def _is_constant_along(frame: Frame, fact: Fact, atoms: frozenset[int]) -> bool:
    """Whether a form is the same along some atoms: a statistic that was broadcast."""
    form = fact.form
    if not atoms <= frame.axes:
        return False  # along other dimensions a statistic differs
    if isinstance(form, Poly):
        values = list(form.terms.values())
        return not any(frame.varies(value, atoms) for value in values)
    moment = form.moment
    values = [moment.mm, moment.m, moment.one]
    if isinstance(form, forms.Power):
        values.append(form.factor)
    elif not forms.is_zero(form.x):
        return False
    else:
        values += [form.m, form.one, form.delta]
    return not any(frame.varies(value, atoms) for value in values)


def _read(frame: Frame, node: Node) -> tuple[Fact, set[int], bool] | None:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ("axes", "keepdims", "noop_with_empty_axes")):
        return None
    axes = reduce_axes(frame.shapes, node, len(fact.view))
    return None if axes is None else (fact, axes, bool(attributes.get(node, "keepdims", 1)))


def _reduce_mean(frame: Frame, node: Node) -> Facts:
    found = _read(frame, node)
    return None if found is None else [mean(frame, found[0], found[1], keep=found[2])]


def total(frame: Frame, fact: Fact, axes: Collection[int], *, keep: bool) -> Fact | None:
    """The sum over some dimensions of a tensor."""
    count = frame.count([atom for i in axes for atom in fact.view[i].real])
    average = mean(frame, fact, axes, keep=keep)
    return None if average is None else replace(average, form=forms.scaled(average.form, float(count)))


def _reduce_sum(frame: Frame, node: Node) -> Facts:
    found = _read(frame, node)
    return None if found is None else [total(frame, found[0], found[1], keep=found[2])]


def _squares(frame: Frame, node: Node) -> Fact | None:
    """The sum of squares."""
    found = _read(frame, node)
    square = None if found is None else power(found[0], 2.0)
    if found is None or square is None or not found[1]:
        return None
    return total(frame, square, found[1], keep=found[2])


def _reduce_sum_square(frame: Frame, node: Node) -> Facts:
    return [_squares(frame, node)]


def _reduce_l2(frame: Frame, node: Node) -> Facts:
    return [power(_squares(frame, node), 0.5)]


def _global_average_pool(frame: Frame, node: Node) -> Facts:
    fact = frame.fact(node.input(0))
    if fact is None or attributes.unexpected(node, ()) or len(fact.view) < 3:
        return None
    return [mean(frame, fact, range(2, len(fact.view)), keep=True)]


TABLE: dict[str, Transfer] = {
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "ReduceSumSquare": _reduce_sum_square,
    "ReduceL2": _reduce_l2,
    "GlobalAveragePool": _global_average_pool,
}

__all__ = ["TABLE", "mean", "total"]
