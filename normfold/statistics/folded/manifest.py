"""Plan -> manifest: what a fold leaves behind, so that the folded model can still be checked and repaired.

A fold goes one of two ways. Where operators in front took the normalisation, its result still stands in the folded model.
Where operators behind took it, its input does. What is neither (a fold both ways, a tensor that a merge removed) is listed
as omitted, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from normfold.affine.draft import OUTPUT, UNIT_IN, UNIT_OUT, Draft, sees_elements
from normfold.affine.reasons import Refused
from normfold.affine.recognise import read
from normfold.model.graph import Node, Value
from normfold.model.patch import Candidate, ScopePatch
from normfold.model.splice import METADATA_PREFIX
from normfold.model.tensors import Float64
from normfold.statistics.folded.records import SUFFIX, Record, Records, Side
from normfold.statistics.sites import StatSite, is_batch_norm, stat_sites
from normfold.surgery.calls import members
from normfold.surgery.plan import Edit, Plan, Stage, stages

# In `metadata_props` of the result: the SHA-256 of its manifest. No name, so that what is written where does not matter.
STATS_KEY = METADATA_PREFIX + "stats"
# Each of them is composed with all that are behind it, which takes the square of their number.
_MOST_SHARING = 64


def manifest_name(model: Path) -> str:
    """Of the manifest beside a model."""
    return f"{model.stem}{SUFFIX}"


def manifest(plan: Plan, candidate: Candidate, source_sha256: str | None) -> Records | None:
    """The records of a plan; None where it folds no normalisation that can be followed.

    Args:
        plan: that is carried out.
        candidate: what it makes.
        source_sha256: of the original file.
    """
    records: list[Record] = []
    omitted: list[tuple[str, str]] = []
    taken = stages(plan, candidate)
    for number, stage in enumerate(taken):
        for site, found in _followed(stage.plan, stage.candidate):
            reason = found if isinstance(found, str) else _moved(found.tensor, taken[number + 1 :])
            if reason:
                omitted.append((site.label, reason))
            elif isinstance(found, Record):
                records.append(found)
    if not records:
        return None
    return Records("manifest", tuple(records), source_sha256, omitted=tuple(omitted))


def _followed(plan: Plan, candidate: Candidate) -> Iterator[tuple[StatSite, Record | str]]:
    """Every normalisation that one plan folds, with its record, or why it has none."""
    folded = {id(node): edit for edit in plan.edits for node in edit.bypassed if is_batch_norm(node)}
    if not folded:
        return
    follower = _Follower(plan, candidate)
    for site in stat_sites(candidate.model, plan.draft.constants, plan.draft.shapes):
        if isinstance(site, StatSite) and id(site.node) in folded:
            try:
                yield site, follower.record(site, folded[id(site.node)])
            except _Lost as reason:
                yield site, str(reason)


def _moved(tensor: str, later: Sequence[Stage]) -> str:
    """Why a tensor is not what it was once plans that start from the result are carried out; "" if it is."""
    for stage in later:
        value = stage.candidate.model.graph.values.get(tensor)
        if value is None:
            return f"{tensor!r} went with something that folded later"
        node, patch = value.producer, stage.candidate.scopes.get(id(value.scope))
        if node is None or patch is None:
            continue
        touched = {id(item) for edit in stage.plan.edits for item in members(edit)}
        if id(node) in touched or node.index in patch.dropped_nodes or node.index in patch.nodes:
            return f"something was folded later past {node.op_type} {node.label!r}, which makes {tensor!r}"
    return ""


class _Lost(Exception):
    """A normalisation that cannot be followed into the folded model."""


def _by_node(edits: Sequence[Edit]) -> dict[int, list[Edit]]:
    """The edits that go past or into a node, by its identity."""
    found: dict[int, dict[int, Edit]] = defaultdict(dict)
    for edit in edits:
        for node in (*edit.crossed, *(slot.node for slot in edit.slots)):
            found[id(node)][id(edit)] = edit
    return {node: list(there.values()) for node, there in found.items()}


class _Follower:
    def __init__(self, plan: Plan, candidate: Candidate) -> None:
        self.draft, self.candidate = plan.draft, candidate
        self.edits = {id(node): edit for edit in plan.edits for node in edit.bypassed}
        self.original = Draft(plan.draft.constants, plan.draft.shapes)  # reads nodes as they are in the file
        self.gone: dict[int, list[Node]] = {}  # by what their data went into
        for node, value in plan.draft.bypassed.values():
            self.gone.setdefault(id(plan.draft.root(value)), []).append(node)
        self.touching = _by_node([edit for edit in plan.edits if edit.bypassed])

    def record(self, site: StatSite, edit: Edit) -> Record:
        """How the folded model relates to this normalisation.

        Raises:
            _Lost: it cannot be followed.
        """
        if site.node.scope is not self.candidate.model.graph:
            raise _Lost("it stands in a body or a function")
        if site.gamma is None or site.beta is None or not site.has_statistics or site.epsilon is None:
            raise _Lost("its parameters cannot be read")
        assert site.mean is not None and site.var is not None
        side = self._side(site.node, edit)
        root = self.draft.root(site.node.output)
        self._require_few(root)  # first: to look at all of them takes the square of their number, too
        self._require_untouched(root, edit)
        gamma, beta = site.gamma, site.beta
        for other in self._sharing(root, site.node):
            behind = self.draft.position(other) > self.draft.position(site.node)
            if self._side(other, self.edits.get(id(other))) != "output" or (behind and side == "input"):
                raise _Lost(f"{other.op_type} {other.label!r} beside it was folded another way")
            if behind:
                scale, shift = self._vectors(other, gamma.size)
                gamma, beta = scale * gamma, scale * beta + shift
        host = _host(edit, root) if side == "output" else ""
        readers = self._readers(site.node) if side == "input" else ()
        name = self._name(root)
        return Record(name, side, site.label, site.key, host, site.epsilon, gamma, beta, site.mean, site.var, readers)

    def _side(self, node: Node, edit: Edit | None) -> Side:
        """Which end of a node that is gone the folded model still has."""
        if edit is None or edit.is_merge:
            raise _Lost(f"{node.op_type} {node.label!r} was merged")
        if not edit.slots or any(slot.node.scope is not node.scope for slot in edit.slots):
            raise _Lost("nothing had to take it, or what took it stands in another graph")
        if any(slot.operand in (UNIT_IN, UNIT_OUT) for slot in edit.slots):
            raise _Lost("a channel of ones carries it")
        mine = self.draft.position(node)
        places = {self.draft.position(slot.node) > mine for slot in edit.slots}
        if len(places) > 1:
            raise _Lost("it was folded both ways")
        return "input" if places.pop() else "output"

    def _sharing(self, root: Value, node: Node) -> Iterator[Node]:
        """Other nodes that are gone and whose data went into the same tensor, in execution order."""
        found = [other for other in self.gone.get(id(root), ()) if other is not node]
        if any(other.scope is not node.scope for other in found):
            raise _Lost("it shares its tensor with a body")
        yield from sorted(found, key=self.draft.position)

    def _require_few(self, root: Value) -> None:
        if len(self.gone.get(id(root), ())) > _MOST_SHARING:
            raise _Lost(f"it shares its tensor with more than {_MOST_SHARING} others")

    def _require_untouched(self, root: Value, mine: Edit) -> None:
        """Another fold that went past the tensor, or through it, left something else there."""
        for edit in () if root.producer is None else self.touching.get(id(root.producer), ()):
            if edit is mine:
                continue
            site = edit.bypassed[0]
            crosses = any(node is root.producer for node in edit.crossed)
            through = self.draft.root(site.output) is not root and any(
                slot.node is root.producer and slot.node.scope is site.scope
                and self.draft.position(slot.node) < self.draft.position(site)
                for slot in edit.slots
            )  # fmt: skip
            if crosses or through:
                raise _Lost(f"{site.op_type} {site.label!r} was folded past it")

    def _vectors(self, node: Node, channels: int) -> tuple[Float64, Float64]:
        """Scale and shift of an affine node, `[C]` each."""
        try:
            return read(self.original, node).affine.vectors(1, channels)
        except Refused as reason:
            raise _Lost(f"{node.op_type} {node.label!r} behind it is not per channel: {reason.message}") from None

    def _readers(self, node: Node) -> tuple[tuple[str, int], ...]:
        """What sees the result of a node, by its first output in the folded model and input slot; () if any of it is gone."""
        found = []
        for use in filter(sees_elements, node.output.uses):
            reader = use.node
            patch = self.candidate.scopes.get(id(reader.scope)) or ScopePatch()
            changed = patch.nodes.get(reader.index)
            names = changed.outputs if changed is not None and changed.outputs is not None else reader.proto.output
            if reader.index in patch.dropped_nodes or id(reader) in self.draft.merges or not names[0]:
                return ()
            found.append((str(names[0]), use.slot))
        return tuple(found)

    def _name(self, root: Value) -> str:
        """Of a value, in the folded model."""
        node = root.producer
        patch = self.candidate.scopes.get(id(root.scope))
        if node is None or patch is None:
            return root.name
        if node.index in patch.dropped_nodes:
            raise _Lost(f"{node.op_type} {node.label!r} in front of it was merged")
        behind = patch.after.get(node.index)
        if behind:  # the bias of an operator that has none of its own
            return str(behind[-1].output[0])
        changed = patch.nodes.get(node.index)
        names = changed.outputs if changed is not None and changed.outputs is not None else node.proto.output
        return str(names[root.output_slot])


def _host(edit: Edit, root: Value) -> str:
    """The operator with weights that makes the tensor, "" where something stands in between, or several took it."""
    (first, *rest) = edit.slots
    alone = not rest and first.operand == OUTPUT and first.node is root.producer
    return first.node.label if alone else ""
