"""Model -> Plan: decide about every site, without touching the model.

Sites are taken in execution order. A chain of affine nodes is tried as a whole first, because a composed scale may pass
where its parts may not; then node by node from the end that is nearest. Backward comes first, because it meets no
padding; what is left is tried forward, and both repeat until nothing more folds, so that a second run on the result finds
nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from normfold.affine.absorbers import changes
from normfold.affine.algebra import Affine
from normfold.affine.change import require_normal_factors
from normfold.affine.draft import OUTPUT, Absorption, Draft, Slot
from normfold.affine.forward import absorb_forward
from normfold.affine.matmul import needs_add
from normfold.affine.patterns import require_no_bias, require_unfused
from normfold.affine.reasons import Refused
from normfold.affine.recognise import BATCH_NORM, AffineNode, has_constant_operand, is_candidate, read
from normfold.affine.remarks import is_exact, remarks
from normfold.affine.search import Found, absorb_backward, require_private
from normfold.affine.unit_channel import carry_shift
from normfold.model import dtypes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Use
from normfold.model.load import Model
from normfold.model.shapes import Hints, Shapes
from normfold.norm.sites import is_norm_operator
from normfold.surgery.merging import Merger
from normfold.surgery.plan import Decision, Edit, Exactness, Outcome, Plan
from normfold.surgery.retire import Retirement

_KEPT = frozenset(("no-absorber", "bias-in-place", "cost", "fused-pattern", "user-keep"))
_PASSES = 16


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Sites and codes that must be left alone.

    Args:
        sites: reason by site, from verification: `(key, message)`.
        skip: codes of the user's `--skip`; a rule code covers all its sites.
        only: codes of the user's `--only`; empty means all.
    """

    sites: Mapping[str, tuple[str, str]]
    skip: Collection[str] = ()
    only: Collection[str] = ()

    def reason(self, node: Node, rule: str = "") -> Refused | None:
        """Why a site is left alone, None if it is not; `rule` is the one that asks, by default the affine one."""
        found = self.sites.get(node.key) or self.sites.get(node.body_key)
        if found is not None:
            key, message = found
            return Refused(key, message, node.label)
        rule = rule or rule_of(node)
        if self.excludes(rule):
            return Refused("user-keep", f"{rule} is excluded by --skip or --only", node.label)
        return None

    def excludes(self, rule: str) -> bool:
        """Whether a rule is switched off."""
        return rule in self.skip or bool(self.only and rule not in self.only)


def rule_of(node: Node) -> str:
    """The rule that is responsible for a site."""
    return "NF101" if node.op_type == BATCH_NORM else "NF102"


def make_plan(model: Model, exclusions: Exclusions, hints: Hints | None = None, *, aggressive: bool = False) -> Plan:
    """Decide about every norm and affine site of a model, as it stands.

    Args:
        model: calls of functions are operators here that nothing is known about; see `calls` for more.
        exclusions: what must be left alone.
        hints: what is known about values that calls make or get.
        aggressive: merge linear operators even where parameters or multiplications grow.

    Raises:
        InputError: the data of a constant is damaged.
    """
    constants = Constants()
    return _Planner(model, Draft(constants, Shapes(constants, hints)), exclusions, aggressive=aggressive).run()


class _Planner:
    def __init__(self, model: Model, draft: Draft, exclusions: Exclusions, *, aggressive: bool) -> None:
        self.model = model
        self.draft = draft
        self.exclusions = exclusions
        self.merger = Merger(model, draft, exclusions, aggressive=aggressive)
        self.aggressive = aggressive
        self.edits: list[Edit] = []
        self.filled: dict[tuple[int, int], int] = {}  # by key of a slot: index of the last edit that filled it
        self.taken: dict[str, Edit] = {}
        self.refusals: dict[str, Refused] = {}  # why nothing in front takes a site, or why it is none
        self.refused_forward: dict[str, Refused] = {}

    def run(self) -> Plan:
        sites = [node for scope in self.model.scopes() for node in scope.nodes if self._is_site(node)]
        for _ in range(_PASSES):
            if not (
                self._sweep(sites, self._plan_backward)
                or self._merge()
                or self._sweep(sites, self._plan_forward)
                or self._move_added_biases()
                or (self.aggressive and self._sweep(sites, self._plan_unit_channel))
            ):
                break
        decisions = tuple(self._decisions(sites))
        return Plan(tuple(self.edits), decisions, tuple(self.draft.slots.values()), self.draft, self.model.frozen)

    def _sweep(self, sites: list[Node], plan_run: Callable[[list[AffineNode]], None]) -> bool:
        """Try every chain that is left; whether anything folded."""
        before = len(self.edits)
        for chain in self._chains([node for node in sites if not self.draft.is_gone(node)]):
            for run in self._runs(chain):
                plan_run(run)
        return len(self.edits) > before

    def _move_added_biases(self) -> bool:
        """Where a shift made a new Add necessary, that Add is an affine itself: what is behind may take it."""
        moved = False
        for slot in [slot for slot, _ in self.draft.slots.values()]:
            affine = self.draft.pending(slot.node, slot.operand)  # what moved before may have come here
            if slot.operand != OUTPUT or affine is None or not needs_add(self.draft, slot.node, affine):
                continue
            shift = Affine(np.ones((1,) * affine.rank), affine.shift).compressed()
            try:
                found = absorb_forward(self.draft, slot.node.output, shift)
            except Refused:
                continue
            if not any(item.adds_node and not self._already_adds(item) for item in found.absorptions):
                self.draft.slots[slot.key] = (slot, affine.only_scale())
                self.draft.absorb(found.absorptions)
                self._extend(slot, found)
                moved = True
        return moved

    def _extend(self, slot: Slot, found: Found) -> None:
        """The edit that filled a slot goes on to where the shift went."""
        index = self.filled[slot.key]
        edit = self.edits[index]
        slots = (*edit.slots, *(item.slot for item in found.absorptions))
        self._note_slots(index, slots)
        self.edits[index] = replace(edit, slots=slots, crossed=(*edit.crossed, *found.crossed))
        self.taken |= {node.key: self.edits[index] for node in edit.bypassed}

    def _append(self, edit: Edit) -> None:
        self.edits.append(edit)
        self._note_slots(len(self.edits) - 1, edit.slots)

    def _note_slots(self, index: int, slots: Sequence[Slot]) -> None:
        for slot in slots:
            self.filled[slot.key] = max(index, self.filled.get(slot.key, index))

    def _merge(self) -> bool:
        """Where no affine folds any more, linear operators may merge, and new places for affines come of it."""
        before = len(self.edits)
        for edit in self.merger.step():
            self._append(edit)
            for node in edit.dropped:
                self.taken[node.key] = edit
                self.refusals.pop(node.key, None)
        return len(self.edits) > before

    def _is_site(self, node: Node) -> bool:
        if not is_candidate(node) or self.draft.constants.get(node.outputs[0] if node.outputs else None) is not None:
            return False
        return bool(node.outputs) and node.outputs[0] is not None and has_constant_operand(self.draft, node)

    def _chains(self, sites: list[Node]) -> Iterator[list[Node]]:
        """Maximal runs of affine nodes, each the only reader of the one before."""
        waiting = {id(node): node for node in sites if not self.draft.is_gone(node)}
        for node in sites:
            if id(node) not in waiting:
                continue
            chain = [waiting.pop(id(node))]
            while (following := self._follower(chain[-1], waiting)) is not None:
                chain.append(waiting.pop(id(following)))
            yield chain

    def _follower(self, node: Node, waiting: dict[int, Node]) -> Node | None:
        use = self.draft.only_reader(node.output)
        if use is None or self.draft.output_of(node.output) is not None:
            return None
        follower = waiting.get(id(use.node))
        return follower if follower is not None and follower.scope is node.scope else None

    def _runs(self, chain: list[Node]) -> Iterator[list[AffineNode]]:
        """The parts of a chain that can be read."""
        run: list[AffineNode] = []
        for node in chain:
            meaning = self._read(node)
            if meaning is not None:
                run.append(meaning)
            elif run:
                yield run
                run = []
        if run:
            yield run

    def _read(self, node: Node) -> AffineNode | None:
        excluded = self.exclusions.reason(node)
        try:
            if excluded is not None:
                raise excluded
            return read(self.draft, node)
        except Refused as reason:
            self.refusals[node.key] = reason
            return None

    def _plan_backward(self, run: list[AffineNode]) -> None:
        """The whole run at once, else one by one from the front."""
        if len(run) > 1 and self._attempt(run, self._backward, self.refusals):
            return
        for member in run:
            self._attempt([member], self._backward, self.refusals)

    def _plan_forward(self, run: list[AffineNode]) -> None:
        """The whole run at once, else one by one from the end."""
        if len(run) > 1 and self._attempt(run, self._forward, self.refused_forward):
            return
        for member in reversed(run):
            self._attempt([member], self._forward, self.refused_forward)

    def _plan_unit_channel(self, run: list[AffineNode]) -> None:
        """The whole run, where only padding keeps it: a channel of ones carries its shift."""
        reason = self.refused_forward.get(run[-1].node.key)
        if reason is not None and reason.key == "padded-shift":
            self._attempt(run, self._unit_channel, self.refused_forward, Exactness.OPT_IN)

    def _unit_channel(self, run: list[AffineNode]) -> Found:
        affine = _composed(run)
        self._require_normal_factors(run, affine)
        return carry_shift(self.draft, run[0].data, run[-1].node.output, affine)

    def _attempt(
        self,
        run: list[AffineNode],
        search: Callable[[list[AffineNode]], Found],
        refusals: dict[str, Refused],
        exactness: Exactness | None = None,
    ) -> bool:
        try:
            found = search(run)
            self._require_gain(run, found.absorptions)
        except Refused as reason:
            for member in run:
                refusals[member.node.key] = reason
            return False
        self._commit(run, found, exactness)
        return True

    def _backward(self, run: list[AffineNode]) -> Found:
        affine = _composed(run)
        first, last = run[0], run[-1]
        self._require_normal_factors(run, affine)
        if self._is_identity(run, affine):
            require_unfused(self.draft, first.data)
            if len(run) == 1:
                require_no_bias(self.draft, first.node, first.data)
            self._require_removable(first, last)
            return Found()
        slot = next(i for i, value in enumerate(first.node.inputs) if value is first.data)
        return absorb_backward(self.draft, Use(first.node, slot), affine)

    def _forward(self, run: list[AffineNode]) -> Found:
        affine = _composed(run)
        require_unfused(self.draft, run[0].data)
        if self._is_identity(run, affine):
            raise self.refusals[run[0].node.key]  # what keeps it does not depend on the direction
        self._require_normal_factors(run, affine)
        return absorb_forward(self.draft, run[-1].node.output, affine)

    def _require_removable(self, first: AffineNode, last: AffineNode) -> None:
        """An identity disappears, unless the name of a graph output hangs on it and its input cannot take the name."""
        root = self.draft.root(first.data)
        if self.draft.output_of(last.node.output) is None:
            return
        if root.producer is None or root.scope is not last.node.scope:
            raise Refused("graph-output", f"{last.node.output.name!r} is an output of the graph", last.node.label)
        require_private(self.draft, root, first.node)

    def _is_identity(self, run: list[AffineNode], affine: Affine) -> bool:
        """Whether a run changes nothing, as its parameters would be stored."""
        return _changes_nothing(affine, self.draft.shapes.data_type(run[0].data))

    def _require_normal_factors(self, run: list[AffineNode], affine: Affine) -> None:
        """Composing a run merges serial factors."""
        kind = self.draft.shapes.data_type(run[0].data) or dtypes.FLOAT
        if len(run) > 1 and dtypes.is_float(kind):
            require_normal_factors((affine.scale, *(member.affine.scale for member in run)), kind)

    def _require_gain(self, run: Sequence[AffineNode], absorptions: Sequence[Absorption]) -> None:
        """An edit must remove more nodes than it adds."""
        added = sum(item.adds_node and not self._already_adds(item) for item in absorptions)
        if added >= len(run) and all(member.node.op_type != BATCH_NORM for member in run):
            target = absorptions[0].slot.node
            raise Refused(
                "bias-in-place",
                f"it is the bias of {target.op_type} {target.label!r}, which has none of its own",
                target.label,
            )

    def _already_adds(self, item: Absorption) -> bool:
        pending = self.draft.pending(item.slot.node, item.slot.operand)
        return pending is not None and pending.shifts

    def _commit(self, run: list[AffineNode], found: Found, exactness: Exactness | None) -> None:
        self.draft.absorb(found.absorptions)
        for member in run:
            self.draft.bypass(member.node, member.data)
        affine = run[0].affine if len(run) == 1 else _composed(run)
        kind = self.draft.shapes.data_type(run[0].data) or dtypes.FLOAT
        exact = is_exact(affine) or (not found.absorptions and not found.crossed)
        edit = Edit(
            run[0].node.key,
            tuple(m.node for m in run),
            tuple(item.slot for item in found.absorptions),
            found.crossed,
            exactness=exactness or (Exactness.EXACT if exact else Exactness.ROUNDED),
            bound=0.0 if exact or not dtypes.is_float(kind) else dtypes.unit_roundoff(kind),
            notes=remarks(affine),
        )
        self._append(edit)
        for member in run:
            self.taken[member.node.key] = edit
            self.refusals.pop(member.node.key, None)
            self.refused_forward.pop(member.node.key, None)

    # --- decisions ---

    def _decisions(self, sites: list[Node]) -> Iterator[Decision]:
        affine = {id(node) for node in sites}
        retired = self._retired_norms()
        for scope in self.model.scopes():
            for node in scope.nodes:
                if id(node) in affine:
                    yield self._decision(node)
                elif id(node) not in retired and self._is_constant_batch_norm(node):
                    yield _constant_decision(node)
                elif id(node) not in retired and is_norm_operator(node):
                    yield _norm_decision(node)
                elif (merged := self.merger.decision(node)) is not None:
                    yield merged
        yield from self._initializer_decisions()

    def _is_constant_batch_norm(self, node: Node) -> bool:
        return node.op_type == BATCH_NORM and not node.domain and self._is_constant(node)

    def _is_constant(self, node: Node) -> bool:
        return bool(node.outputs) and self.draft.constants.get(node.outputs[0]) is not None

    def _retired_norms(self) -> Collection[int]:
        """Identities of nodes that go with the weights that they make: no site, for there is nothing to say about them."""
        norms = [
            n for scope in self.model.scopes() for n in scope.nodes if n.op_type == BATCH_NORM or is_norm_operator(n)
        ]
        if not any(self._is_constant(node) for node in norms):
            return ()
        slots = self.draft.slots.values()
        return Retirement(self.model, self.draft, changes(self.draft, slots)).nodes

    def _decision(self, node: Node) -> Decision:
        rule = rule_of(node)
        edit = self.taken.get(node.key)
        if edit is not None:
            targets = tuple(dict.fromkeys(slot.node.label for slot in edit.slots))
            names = list(dict.fromkeys(f"{slot.node.op_type} {slot.node.label!r}" for slot in edit.slots))
            where = " and ".join(names[:4])
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            message = f"folded into {where}{more}" if edit.slots else _without_slots(edit)
            return Decision(
                node.key, rule, rule, Outcome.APPLIED, node.op_type, node.label, (node.label, *targets), message,
                edit.exactness, edit.bound, edit.notes,
            )  # fmt: skip
        reason = self._reason(node)
        outcome = (
            Outcome.KEPT
            if (reason.key in _KEPT and node.op_type != BATCH_NORM) or reason.key == "user-keep"
            else Outcome.REFUSED
        )
        nodes = (node.label, reason.blocker) if reason.blocker and reason.blocker != node.label else (node.label,)
        return Decision(
            node.key, rule, f"{rule}.{reason.key}", outcome, node.op_type, node.label, nodes, reason.message
        )

    def _reason(self, node: Node) -> Refused:
        """Why a site stays, in both directions; the code is that of the direction where something stood at all."""
        backward = self.refusals.get(node.key) or Refused("no-absorber", "nothing in front could take it")
        forward = self.refused_forward.get(node.key)
        if forward is None:
            return backward
        nothing_behind = forward.key in ("no-absorber", "graph-output")
        is_telling = forward.key == "fused-pattern" or (backward.key == "no-absorber" and not nothing_behind)
        named = forward if is_telling else backward
        return Refused(named.key, f"{backward.message}; behind it, {forward.message}", named.blocker)

    def _initializer_decisions(self) -> Iterator[Decision]:
        if self.model.frozen:
            yield _frozen_decision(self.model.frozen)
        if self.model.kept_exposed:
            names = self.model.kept_exposed
            message = (
                f"{len(names)} initializers are also inputs and stay overridable; --initializers freeze fixes them"
            )
            yield Decision("initializers", "NF301", "NF301.kept", Outcome.KEPT, "initializer", names[0], names, message)


def _frozen_decision(names: tuple[str, ...]) -> Decision:
    message = (
        f"{len(names)} initializers that were also inputs are constants now; --initializers keep leaves them as inputs"
    )
    return Decision("initializers", "NF301", "NF301", Outcome.APPLIED, "initializer", names[0], names, message)


def _norm_decision(node: Node) -> Decision:
    message = f"{node.op_type} normalises with statistics of its input and already is one operator"
    return Decision(
        node.key, "NF201", "NF201.single-op", Outcome.KEPT, node.op_type, node.label, (node.label,), message
    )


def _without_slots(edit: Edit) -> str:
    if edit.crossed:
        return f"{edit.crossed[-1].op_type} {edit.crossed[-1].label!r} takes it out again; it was removed"
    return "it changes nothing and was removed"


def _constant_decision(node: Node) -> Decision:
    message = f"everything that {node.label!r} reads is constant: a runtime computes it once, when it loads the model"
    return Decision(node.key, "NF101", "NF101.constant", Outcome.KEPT, node.op_type, node.label, (node.label,), message)


def _changes_nothing(affine: Affine, kind: int | None) -> bool:
    """Whether data of that type, None if unknown, cannot tell it from the identity."""
    return affine.is_identity or (kind is not None and dtypes.is_float(kind) and affine.stored(kind).is_identity)


def _composed(run: list[AffineNode]) -> Affine:
    affine = run[0].affine
    for member in run[1:]:
        affine = affine.then(member.affine)
    return affine if len(run) == 1 else affine.compressed()
