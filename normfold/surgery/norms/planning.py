"""Model -> NormPlan: every norm is confirmed by numbers, offered to the target, and spelled anew where that gains something.

A target may want a newer opset. It is raised for the whole model, exactly or not at all, and only as far as the norms need
that are worth it; where it cannot be raised, each norm takes the best that the opset allows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from normfold.affine.reasons import Refused as AffineRefused
from normfold.model.constants import Constants
from normfold.model.graph import Node, Scope
from normfold.model.load import Model
from normfold.model.rewrite import Names, sweep
from normfold.model.shapes import Hints, Shapes
from normfold.norm.confirm import confirm
from normfold.norm.prologue import prologue
from normfold.norm.reasons import Refused
from normfold.norm.recognise import NormSite, Recogniser
from normfold.norm.seeds import is_seed
from normfold.norm.sites import is_norm_operator
from normfold.surgery.norms.carry_out import carried_out
from normfold.surgery.norms.decisions import applied, kept, refused, turned
from normfold.surgery.norms.edits import RULE, NormEdit, NormPlan, edit_id
from normfold.surgery.norms.emit import Emitter, made_by
from normfold.surgery.norms.fused import Fused, fused_nodes, read_fused
from normfold.surgery.norms.layout import TurnEdit, Turner
from normfold.surgery.norms.opset import Raised, raised
from normfold.surgery.norms.signature import signature
from normfold.surgery.norms.surroundings import Around, Extent, alone, extent_of, look_around
from normfold.surgery.norms.unsupported import no_kernel, unfit, unfused, without_kernel
from normfold.surgery.norms.worth import gains, is_spelled, is_valid
from normfold.surgery.plan import Decision
from normfold.surgery.planner import Exclusions
from normfold.targets.lower import Options, lower
from normfold.targets.lowering import Choice, Lowering, Rejected
from normfold.targets.names import Target
from normfold.targets.reasons import Cannot

# Targets on which the layout of a norm is decided with that of its neighbours.
_TURNED = (Target.ORT_CUDA,)


def plan_norms(
    model: Model,
    exclusions: Exclusions,
    target: Target,
    *,
    threads: int | None = None,
    precise: bool = False,
    hints: Hints | None = None,
    near: Collection[Node] | None = None,
) -> NormPlan:
    """Decide about every norm of a model once, as it stands; `settled` goes on until nothing changes.

    Args:
        model: not changed; calls of functions are operators here that nothing is known about, see `across` for more.
        exclusions: what must be left alone.
        target: where the model will run.
        threads: on how many threads, None for the runtime's default.
        precise: rule out operators whose statistics lose digits where the mean dwarfs the deviation.
        hints: what is known about values that calls make or get.
        near: the nodes that may be the statistic of a norm; None for all.

    Raises:
        InputError: the data of a constant is damaged.
    """
    nodes = [node for scope in model.scopes() for node in scope.nodes]
    if exclusions.excludes(RULE) or not any(is_seed(node) or is_norm_operator(node) for node in nodes):
        return NormPlan(model)
    seeds = None if near is None else frozenset(map(id, near))
    first = Planner(model, exclusions, target, threads, Shapes(Constants(), hints), precise=precise, seeds=seeds)
    plan = first.run()
    return _turned(plan, first, hints) if plan.deferred else plan


def _turned(plan: NormPlan, first: Planner, hints: Hints | None) -> NormPlan:
    """The plan with the norms that work channels-last, or take their second choice because that does not pay."""
    shapes = Shapes(Constants(), hints)
    second = Planner(
        plan.model, first.exclusions, first.target, first.threads, shapes, precise=first.precise, turning=plan.deferred
    ).run()
    return NormPlan(
        second.model,
        (*plan.edits, *second.edits),
        (*plan.decisions, *second.decisions),
        {**plan.spoken_for, **second.spoken_for},
        {**plan.patterns, **second.patterns},
    )


@dataclass(slots=True)
class Planner:
    """One look at the norms of a model for one target.

    Args:
        model, exclusions, target, threads, precise: as for `plan_norms`.
        shapes: of the model.
        seeds: identities of the nodes that may be statistics; None for all.
        decisions: what is said, by key of the last node of a norm.
        deferred: in the first of two steps, the keys of the norms that are left for the second, which decides about the layout
            of whole scopes.
        turning: in the second step, those keys.
    """

    model: Model
    exclusions: Exclusions
    target: Target
    threads: int | None
    shapes: Shapes
    precise: bool = False
    seeds: frozenset[int] | None = None  # identities of the nodes that may be statistics; None for all
    names: Names = field(init=False)
    decisions: dict[str, Decision] = field(default_factory=dict)
    confirmed: set[object] = field(default_factory=set)
    offers: dict[str, tuple[Choice, Lowering | None]] = field(default_factory=dict)  # under the opset of the file
    around: dict[str, Around] = field(default_factory=dict)
    fused: dict[str, Fused] = field(default_factory=dict)
    conversions: dict[Scope, dict[int, Raised]] = field(default_factory=dict)
    turning: frozenset[str] | None = None  # in the second step: the norms that are left for it
    deferred: set[str] = field(default_factory=set)  # in the first step: those that are left for the second
    unturned: dict[str, Rejected] = field(
        default_factory=dict
    )  # in the second step: why norms do not work channels-last

    def __post_init__(self) -> None:
        self.names = Names(self.model)

    def run(self) -> NormPlan:
        """Everything decided, and the model that results."""
        found = list(Recogniser(self.model, self.shapes, self.seeds).sites())
        if self.turning is not None:
            found = [site for site in found if site.end.key in self.turning]
        sites = [site for site in found if self.is_sound(site)]
        self.look_at(sites)
        if self.turning is None:
            sites += self.fused_sites()
        turns = self._turns(sites)
        sites = [site for site in sites if not any(site in turn.sites for turn in turns)]
        opset, chosen = self.choose(sites)
        free = {id(node) for turn in turns for node in turn.before}
        wanted = [(s, low) for s, low in chosen if low is not None and not any(id(n) in free for n in s.dead)]
        edits = self._edits(wanted, opset)
        model = carried_out(self.model, edits, turns, self.conversions, opset)
        if self.turning is None:
            gone = {id(node) for edit in edits for node in edit.gone}
            self.decisions |= without_kernel(self.model, self.target, self.decisions, gone)
        operators = [node for scope in self.model.scopes() for node in scope.nodes if is_norm_operator(node)]
        spoken = {node.key: node.key for node in operators if node.key in self.decisions}
        spoken |= {node.key: site.end.key for site, _ in chosen for node in site.dead}
        spoken |= {key: edit.site.end.key for edit in edits for key in made_by(edit.nodes, edit.extent.place)}
        for turn in turns:
            new = [key for n in turn.before for key in made_by(turn.rewrite.nodes.get(n.index, ()), n)]
            spoken |= dict.fromkeys(new, turn.sites[0].end.key)
            spoken |= {node.key: site.end.key for site in turn.sites for node in site.dead}
        written = {id(edit.site) for edit in edits}
        whole = [site for site in found if id(site) not in written and not site.borrows]
        patterns = {node.key: site.end for site in whole for node in self._pattern(site)}
        decisions = tuple(d for key, d in self.decisions.items() if key not in self.deferred)
        return NormPlan(model, (*turns, *edits), decisions, spoken, patterns, frozenset(self.deferred))

    def _pattern(self, site: NormSite) -> Iterator[Node]:
        """The inside of a norm that stays, by which runtimes recognise it."""
        front = {id(node) for node in prologue(self.shapes.constants, site)}
        return (node for node in site.inner if id(node) not in front)

    def _turns(self, sites: Sequence[NormSite]) -> list[TurnEdit]:
        """In the second step, the norms that work channels-last."""
        if self.turning is None:
            return []
        turner = Turner(self.shapes, self.names)
        for site in sites:
            turner.offer(site, self._around(site), self._offer(site, self.model.graph.version))
        turns = turner.turn(self.exclusions.sites)
        self.unturned = turner.rejected
        for turn in turns:
            for site in turn.sites:
                _, lowering, norm = turner.candidates[site.end.key]
                gone = sorted(
                    norm.nodes, key=lambda node: node.index
                )  # a set has no order, and the report must have one
                self.decisions[site.end.key] = turned(site, lowering, gone, len(turn.before))
        return turns

    def choose(self, sites: Sequence[NormSite]) -> tuple[int, list[tuple[NormSite, Lowering | None]]]:
        """The opset that the model will import, and what each norm becomes; None for one that stays."""
        opset, obstacle = self._opset(sites)
        return opset, [(site, self._choose(site, opset, obstacle)) for site in sites]

    # --- what is one ---

    def is_sound(self, site: NormSite) -> bool:
        """Whether a find may be used: nobody excluded it, and numbers confirm it."""
        end = site.end
        if self._is_excluded(site):
            return False
        shape = signature(self.shapes.constants, site)
        try:
            confirm(
                self.shapes.constants,
                site.base,
                site.output,
                site.norm,
                operands={value.name: value for value in site.operands},
                snap=site.snap,
                thorough=shape not in self.confirmed,
            )
        except Refused as reason:
            self.decisions[end.key] = refused(site, reason.key, reason.message)
            return False
        self.confirmed.add(shape)
        return True

    def _is_excluded(self, site: NormSite) -> bool:
        excluded = self.exclusions.sites.get(edit_id(site.end))
        if excluded is not None:
            self.decisions[site.end.key] = refused(site, *excluded)
        return excluded is not None

    def fused_sites(self) -> list[NormSite]:
        """Operators of onnxruntime that the target does not have: nothing is to be confirmed, they say what they are."""
        for node in fused_nodes(self.model):
            if not self._unfit(node):
                continue
            try:
                self.fused[node.key] = read_fused(self.shapes, node)
            except Cannot as why:
                self.decisions[node.key] = no_kernel(node, self._unfit(node), why.message)
        return [fused.site for fused in self.fused.values() if not self._is_excluded(fused.site)]

    def _unfit(self, node: Node) -> str:
        return unfit(node, self.target, precise=self.precise)

    # --- what it becomes ---

    def look_at(self, sites: Sequence[NormSite]) -> None:
        """Learn what stands around each norm; of two norms of one sum, the first has the addition to itself."""
        claimed = {id(node) for site in sites for node in site.dead}
        for site in sites:
            found = look_around(self.shapes, site)
            if any(id(node) in claimed for node in found.adds):
                found = alone(found)
            claimed |= {id(node) for node in found.adds}
            self.around[site.end.key] = found

    def _around(self, site: NormSite) -> Around:
        fused = self.fused.get(site.end.key)
        return self.around[site.end.key] if fused is None else fused.around

    def _extent(self, site: NormSite, lowering: Lowering) -> Extent:
        fused = self.fused.get(site.end.key)
        return extent_of(site, self._around(site), lowering) if fused is None else fused.extent()

    def _offer(self, site: NormSite, opset: int) -> Choice:
        choice = lower(site.norm, self.target, Options(opset, self.threads, self.precise), self._around(site).meaning)
        fused = self.fused.get(site.end.key)
        return choice if fused is None else replace(choice, lowerings=tuple(map(fused.written, choice.lowerings)))

    def _opset(self, sites: Sequence[NormSite]) -> tuple[int, str]:
        """The version that the model will import, and why it is not the one that the target wants."""
        have = self.model.graph.version
        wanted = have
        for site in sites:
            choice = self._offer(site, have)
            best = self._best(site, choice, None)
            self.offers[site.end.key] = choice, best
            if best is not None and best.opset <= (best.newest or best.opset):
                wanted = max(wanted, best.opset)
        if wanted == have or not have:
            return have, ""
        try:
            self.conversions = raised(self.model, wanted, self.shapes, self.names)
        except AffineRefused as reason:
            return have, f"opset {wanted} is needed, and the model stays at {have}: {reason.message}"
        return wanted, ""

    def _best(self, site: NormSite, choice: Choice, opset: int | None) -> Lowering | None:
        """The first lowering that gains something; with an opset, of those that are valid under it."""
        for lowering in choice.lowerings:
            if lowering.channels_last and self.target in _TURNED:
                if self.turning is None and site.end.key not in self.fused:
                    self.deferred.add(site.end.key)
                    return None
                continue
            if self._is_spelled(site, lowering):
                return None
            if opset is not None and not is_valid(lowering, opset):
                continue
            if gains(site, self._extent(site, lowering).dead, lowering, self.target, precise=self.precise):
                return lowering
        return None

    def _is_spelled(self, site: NormSite, lowering: Lowering) -> bool:
        return is_spelled(self._extent(site, lowering).dead, lowering)

    def _choose(self, site: NormSite, opset: int, obstacle: str) -> Lowering | None:
        choice, lowering = self.offers[site.end.key]
        if lowering is None or not is_valid(lowering, opset):
            same = opset == self.model.graph.version
            choice = self._told(site, choice if same else self._offer(site, opset))
            lowering = self._best(site, choice, opset)
        if site.end.key in self.fused:
            fused, why = self.fused[site.end.key], self._unfit(site.end)
            self.decisions[site.end.key] = unfused(fused, choice, lowering, obstacle, why)
        elif lowering is None:
            best = next(iter(choice.lowerings), None)
            done = best is not None and not best.fallback and self._is_spelled(site, best)
            front = prologue(self.shapes.constants, site)
            self.decisions[site.end.key] = kept(
                site, choice, opset, obstacle, self.target, is_spelled=done, front=front
            )
        else:
            gone = extent_of(site, self._around(site), lowering).dead
            self.decisions[site.end.key] = applied(site, lowering, gone)
        return lowering

    def _told(self, site: NormSite, choice: Choice) -> Choice:
        """The choice, with the reason why its first entry was not taken, if that was decided for the whole scope."""
        why = self.unturned.get(site.end.key)
        return choice if why is None else replace(choice, rejected=(why, *choice.rejected))

    # --- the model with them ---

    def _edits(self, chosen: Sequence[tuple[NormSite, Lowering]], opset: int) -> list[NormEdit]:
        emitter = Emitter(self.names)
        edits: list[NormEdit] = []
        for site, lowering in chosen:
            extent = self._extent(site, lowering)
            nodes, constants = emitter.emit(site, lowering, extent)
            read = {name for node in nodes for name in node.input}
            gone = tuple(sweep(extent.dead, read))
            edits.append(NormEdit(site, lowering, nodes, constants, gone, extent, opset, self.shapes))
        return edits
