"""From a norm to what it becomes on a target: every spelling of the target's row is tried, and every refusal says why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from normfold.model.dtypes import BFLOAT16, DOUBLE, FLOAT, FLOAT16, stored, type_name
from normfold.norm.meaning import Norm, Surroundings
from normfold.targets.draft import Draft
from normfold.targets.facts import EXPECTED, Declined, Form, Prefer, Spelling, Support, Table, Threads
from normfold.targets.forms import canonical, forms, rounded
from normfold.targets.lowering import MICROSOFT, Choice, Lowering, Rejected
from normfold.targets.names import Target
from normfold.targets.reasons import Cannot
from normfold.targets.site import Site
from normfold.targets.spellings import (
    contrib_group,
    elementary,
    group_layer,
    group_normalization,
    instance_normalization,
    layer_normalization,
    rms_normalization,
    skip_layer,
)
from normfold.targets.spellings.transposed import between_transposes
from normfold.targets.standard import FIRST, span
from normfold.targets.tables import table_of

SPELLINGS: dict[Spelling, Callable[[Site], str]] = {
    Spelling.LAYER: layer_normalization.build,
    Spelling.SIMPLIFIED: rms_normalization.simplified,
    Spelling.RMS: rms_normalization.standard,
    Spelling.SKIP_LAYER: skip_layer.centred,
    Spelling.SKIP_SIMPLIFIED: skip_layer.uncentred,
    Spelling.INSTANCE: instance_normalization.build,
    Spelling.IDIOM: instance_normalization.idiom,
    Spelling.IDIOM_BATCH: instance_normalization.idiom_with_batch_norm,
    Spelling.GROUP_LAYER: group_layer.build,
    Spelling.GROUP_WIDE: group_layer.wide,
    Spelling.GROUP: group_normalization.build,
    Spelling.CONTRIB_GROUP: contrib_group.build,
    Spelling.SKIP_GROUP: contrib_group.with_addition,
    Spelling.ELEMENTARY: elementary.division,
    Spelling.ELEMENTARY_RECIPROCAL: elementary.reciprocal,
}
# These have parameters of float32 beside an x of 16 bits, so the type of the parameters does not widen the computation.
_WIDE_PARAMETERS = (Spelling.CONTRIB_GROUP, Spelling.SKIP_GROUP)
_ADDS = (Spelling.SKIP_LAYER, Spelling.SKIP_SIMPLIFIED, Spelling.SKIP_GROUP)
_ELEMENTARY = (Spelling.ELEMENTARY, Spelling.ELEMENTARY_RECIPROCAL)
# Two epsilons that are closer, relative to their size, are one in float64.
_SAME_IN_DOUBLE = 2.0**-48
_WIDENS = ("element-type", "parameter-range")


@dataclass(frozen=True, slots=True)
class Options:
    """What a lowering depends on beside the norm.

    Args:
        opset: the version of the standard domain that the model imports now.
        threads: how many threads the model will run on; None for the runtime's default, which is more than one.
        precise: whether there is a precision bound, which one-pass statistics do not keep.
    """

    opset: int
    threads: int | None = None
    precise: bool = False


def lower(norm: Norm, target: Target, options: Options, around: Surroundings | None = None) -> Choice:
    """What a norm becomes on a target, best first, and what it cannot become there.

    The nodes read `x` and make `y`, of the types and the shape of the norm; with what they take from the surroundings
    they read that instead. They are written for the opset of the options, or for the lowest that they need.
    """
    norm, table = canonical(norm), table_of(target)
    around = around or Surroundings()
    problem = _ill_formed(norm)
    if problem is not None:
        return Choice((), (problem,))
    lowerings: list[Lowering] = []
    rejected: list[Rejected] = []
    for entry in _entries(table, norm, options):
        if isinstance(entry, Declined):
            rejected.append(Rejected(entry.operator, entry.key, entry.message))
            continue
        if entry.spelling in _ADDS and around.residual is None and around.embedding is None:
            continue  # nobody asks why an addition that is not there was not taken
        try:
            lowerings.append(_Attempt(norm, table, options, around, entry).lowering())
        except Cannot as why:
            rejected.append(Rejected(entry.operator, why.key, why.message))
    return Choice(tuple(lowerings), tuple(rejected))


def _ill_formed(norm: Norm) -> Rejected | None:
    """Why no operator computes it at all, None if one may."""
    if 0 in norm.dims:
        return Rejected("any operator", "empty", f"dimension {norm.dims.index(0)} has no elements")
    if norm.groups is not None and norm.channel is not None:
        channels = norm.dims[norm.channel]
        if isinstance(channels, int) and channels % norm.groups:
            return Rejected("any operator", "groups", f"C = {channels} is no multiple of G = {norm.groups}")
    return None


def _entries(table: Table, norm: Norm, options: Options) -> Iterator[Prefer | Declined]:
    """The entries of the rows of a norm that the options do not rule out, and elementary operators behind them."""
    for form in forms(norm):
        row = table.rows.get(form, (Declined("any single operator", "axes", f"none computes a {form.value}"),))
        yield from (e for e in row if isinstance(e, Declined) or _applies(e, norm, options))
        named = {e.operator for e in row}
        yield from (e for e in _expected(table, form) if e.operator not in named)
    yield Prefer(table.elementary, "no operator of the target can express it; in elementary operators it runs anywhere")


def _expected(table: Table, form: Form) -> Iterator[Declined]:
    """The operators made for a form of norm that the target has no kernel for: people ask why they were not taken."""
    for operator, domain in EXPECTED.get(form, ()):
        kernel = table.kernel(operator, domain)
        if kernel is not None and not kernel.types:
            name = f"{domain}.{operator}" if domain else operator
            yield Declined(name, "no-kernel", f"{table.target.value} has no kernel for {name}{_because(kernel)}")


def _because(kernel: Support | None) -> str:
    return f": {kernel.note}" if kernel is not None and kernel.note else ""


def _applies(entry: Prefer, norm: Norm, options: Options) -> bool:
    threads = Threads.ONE if options.threads == 1 else Threads.MANY
    if entry.threads not in (Threads.ANY, threads) or (entry.precise and not options.precise):
        return False
    return entry.types is None or needed_type(norm) in entry.types


def needed_type(norm: Norm, *, parameters: bool = True) -> int:
    """The narrowest type in which an operator computes what the norm means: that of `x`, of `y`, and of the parameters.

    A parameter that was stored wider than that counts only where the narrow type cannot hold it.
    """
    needed = _wider(norm.input_type, norm.output_type)
    if not parameters or _wider(needed, norm.parameter_type) == needed:
        return needed
    constants = [p for p in (norm.gamma, norm.beta) if p is not None]
    is_held = all(bool(np.array_equal(stored(p, needed), p)) for p in constants)
    return needed if is_held and norm.scale is None and norm.bias is None else _wider(needed, norm.parameter_type)


def _wider(one: int, other: int) -> int:
    """The narrowest type that holds every number of both."""
    if one == other:
        return one
    if DOUBLE in (one, other):
        return DOUBLE
    return FLOAT  # what float16 and bfloat16 have in common


class _Attempt:
    """One entry of a row on one norm."""

    def __init__(self, norm: Norm, table: Table, options: Options, around: Surroundings, entry: Prefer) -> None:
        self.norm = norm
        self.table = table
        self.options = options
        self.around = around
        self.entry = entry

    def lowering(self) -> Lowering:
        """The nodes, in the first type for which the target has all kernels.

        Raises:
            Cannot: there is none.
        """
        if self.options.opset < self.entry.from_opset:
            raise Cannot(
                "opset-low",
                f"raising the model from opset {self.options.opset} to {self.entry.from_opset} is not worth it",
            )
        refusal: Cannot | None = None
        for data_type in self._types():
            try:
                return self._written(data_type, max(self.options.opset, FIRST))
            except Cannot as why:
                if why.key not in _WIDENS:
                    raise
                refusal = refusal or why
        assert refusal is not None
        raise refusal

    def _types(self) -> tuple[int, ...]:
        first = needed_type(self.norm, parameters=self.entry.spelling not in _WIDE_PARAMETERS)
        return (first, FLOAT) if self.entry.widen and first in (FLOAT16, BFLOAT16) else (first,)

    def _written(self, data_type: int, opset: int) -> Lowering:
        draft = Draft(opset)
        norm = self.norm if self.entry.spelling in _WIDE_PARAMETERS else rounded(self.norm, data_type)
        site = Site(norm, data_type, draft, self.table, self.around, self.options.precise)
        build = SPELLINGS[self.entry.spelling]
        result = between_transposes(site, build) if self.entry.transposed else build(site)
        if data_type != self.norm.output_type:
            result = draft.op("Cast", result, data_type=data_type, rank=self.norm.rank, to=self.norm.output_type)
        kernels = [self._kernel(use.op.op_type, use.op.domain, use.data_type, use.rank) for use in draft.uses]
        self._require_epsilon(draft, data_type)
        spans = [span(use.op, use.data_type) for use in draft.uses if not use.op.domain]
        lowest = max((first for first, _ in spans), default=FIRST)
        if lowest > opset:
            return self._written(data_type, lowest)
        return self._finished(draft, result, kernels, lowest, min((e for _, e in spans if e is not None), default=None))

    def _require_epsilon(self, draft: Draft, data_type: int) -> None:
        """Epsilon is a float32 attribute, of which half the relative rounding shows in `1/sqrt(V + epsilon)` where V is small.

        In float64 that is up to 3e-8, where the result is good to 1e-16, and whoever computes in float64 wants these digits.

        Raises:
            Cannot: it is another one.
        """
        wanted, single = self.norm.epsilon, float(np.float32(self.norm.epsilon))
        takes_it = any("epsilon" in use.op.attributes for use in draft.uses)
        if data_type == DOUBLE and takes_it and not math.isclose(single, wanted, rel_tol=_SAME_IN_DOUBLE):
            raise Cannot(
                "epsilon",
                f"epsilon = {wanted!r} is {single!r} as a float32 attribute, which would change rows of little variance by "
                f"{abs(single - wanted) / wanted / 2:.1g} of their size, and float64 tells that apart",
            )

    def _finished(
        self, draft: Draft, result: str, kernels: list[Support], lowest: int, valid_until: int | None
    ) -> Lowering:
        newest = min((k.newest for k in kernels if k.newest is not None), default=None)
        if newest is not None and draft.opset > newest:
            last = next(k for k in kernels if k.newest == newest)
            raise Cannot(
                "opset-cap",
                f"{last.operator} has no kernel beyond opset {newest} on {self.table.target.value}, "
                f"and the model is at {draft.opset}",
            )
        return Lowering(
            operator=self.entry.operator,
            nodes=draft.finished(result),
            constants=tuple(draft.constants),
            opset=lowest,
            reason=self.entry.reason,
            newest=newest,
            domains={MICROSOFT: 1} if any(use.op.domain for use in draft.uses) else {},
            marks=tuple(dict.fromkeys(k.question for k in kernels if k.question)),
            takes_residual=draft.takes_residual,
            takes_embedding=draft.takes_embedding,
            takes_silu=draft.takes_silu,
            channels_last=draft.channels_last,
            fallback=self.entry.spelling in _ELEMENTARY,
            valid_until=valid_until,
        )

    def _kernel(self, operator: str, domain: str, data_type: int, rank: int) -> Support:
        """The kernel that a node needs.

        Raises:
            Cannot: the target has none for the operator, the type, the rank, or for a precision bound.
        """
        found = self.table.kernel(operator, domain)
        name, target = operator if not domain else f"{domain}.{operator}", self.table.target.value
        if found is None or not found.types:
            raise Cannot("no-kernel", f"{target} has no kernel for {name}{_because(found)}")
        if data_type not in found.types:
            raise Cannot("element-type", f"{target} has no {name} in {type_name(data_type)}{_because(found)}")
        least, most = found.ranks
        if not least <= rank <= most:
            raise Cannot("rank", f"{name} takes rank {least} to {most} on {target}, this is rank {rank}")
        if found.imprecise and self.options.precise:
            raise Cannot("precision", f"{name}: {found.imprecise}, which a precision bound rules out")
        return found
