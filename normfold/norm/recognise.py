"""Model -> norms: what every seed turns out to be the statistic of, and the nodes that go with it.

Linear in the number of nodes: a frame looks at a bounded number of nodes behind its base, and a seed inside of a norm that
was found is not looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from normfold.model import attributes
from normfold.model.dtypes import is_float
from normfold.model.graph import Node, Scope, Value
from normfold.model.load import Model
from normfold.model.shapes import Shapes
from normfold.norm.accept import fits, norm_of
from normfold.norm.forms import Normal
from normfold.norm.frame import Frame
from normfold.norm.meaning import Norm
from normfold.norm.numbers import Extents
from normfold.norm.seeds import bases, is_seed, set_axes
from normfold.norm.transfer import transfer
from normfold.norm.views import SplitError

_MOST_SPLITS = 8
_MOST_BEHIND = 512  # nodes that are looked at to find out what a norm is computed of


@dataclass(frozen=True, slots=True, eq=False)
class NormSite:
    """A norm in a graph.

    Args:
        norm: what it means.
        base: x.
        output: y.
        nodes: those between them that y depends on, in execution order.
        dead: those of them that nothing else needs.
        snap: how far coefficients were moved to make it a norm, relative.
        inner: those of the nodes that come before the first result that is a norm.
        operands: the values that the norm names as scale and bias.
        borrows: whether somebody else needs all its statistics, so that an operator would only take them again.
    """

    norm: Norm
    base: Value
    output: Value
    nodes: tuple[Node, ...]
    dead: tuple[Node, ...]
    snap: float
    inner: tuple[Node, ...] = ()
    operands: tuple[Value, ...] = ()
    borrows: bool = False

    @property
    def end(self) -> Node:
        """The node that makes y: it stands for the site."""
        node = self.output.producer
        assert node is not None
        return node


@dataclass(slots=True, eq=False)
class Recogniser:
    """Finds norms.

    Args:
        model: which is not changed.
        shapes: of the model.
        wanted: identities of the nodes that may be the first statistic of a norm; None for all.
    """

    model: Model
    shapes: Shapes
    wanted: Collection[int] | None = None
    extents: Extents = field(init=False)
    _positions: dict[int, int] = field(default_factory=dict)
    _taken: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.extents = Extents(self.shapes)

    def sites(self) -> Iterator[NormSite]:
        """Every norm of the model, in execution order of its first statistic."""
        for scope in self.model.scopes():
            seeds = [node for node in scope.nodes if is_seed(node) and self._is_wanted(node) and self._is_live(node)]
            if not seeds:
                continue
            self._positions |= {id(node): i for i, node in enumerate(scope.nodes)}
            borrowing: list[NormSite] = []
            for seed in seeds:
                while id(seed) not in self._taken and (found := self._best(scope, seed)) is not None:
                    site = with_operands(self.shapes, found)
                    self._taken |= {id(node) for node in site.dead}
                    if any(is_seed(node) for node in site.dead):
                        yield site
                    else:
                        borrowing.append(site)
            paid = _paid_together(borrowing)
            for site in borrowing:
                yield site if site in paid else replace(site, borrows=True)

    def _is_wanted(self, node: Node) -> bool:
        return self.wanted is None or id(node) in self.wanted

    def _is_live(self, node: Node) -> bool:
        """Whether a node works on data, and says how; what is computed of constants is a constant."""
        if node.is_call or node.is_bound_by_caller or not node.outputs:
            return False
        return self.shapes.constants.get(node.outputs[0]) is None

    def _best(self, scope: Scope, seed: Node) -> NormSite | None:
        """The norm that takes the most nodes with it, of all that the seed may be a statistic of."""
        best: NormSite | None = None
        for base, path in bases(self.shapes.constants, seed):
            for site in self._of_base(scope, seed, base, path):
                if best is None or self._rank(site) > self._rank(best):
                    best = site
        return best

    def _rank(self, site: NormSite) -> tuple[bool, bool, int, int]:
        return self._is_closed(site), fits(site.norm), len(site.dead), self._positions[id(site.end)]

    def _is_closed(self, site: NormSite) -> bool:
        """Whether everything is computed of the base and constants: sizes may be asked of a tensor in front of the base."""
        known = {id(site.base)}
        pending = list(site.nodes)
        for _ in range(_MOST_BEHIND):
            if not pending:
                return True
            for value in pending.pop().inputs:
                if value is None or id(value) in known or self.shapes.constants.get(value) is not None:
                    continue
                known.add(id(value))
                if value.producer is None:
                    return False
                pending.append(value.producer)
        return False

    def _of_base(self, scope: Scope, seed: Node, base: Value, path: Sequence[Node]) -> Iterator[NormSite]:
        extents = self.extents.of(base)
        kind = self.shapes.data_type(base)
        if extents is None or kind is None or not is_float(kind) or 0 in extents:
            return
        frame = self._frame(scope, seed, base, path, [[size] if size != 1 else [] for size in extents])
        if frame is None:
            return
        for node in frame.nodes:
            for value in node.outputs:
                fact = frame.fact(value)
                found = None if fact is None else norm_of(frame, fact)
                if value is None or found is None:
                    continue
                nodes = _between(frame, value)
                dead = _dead(nodes, value)
                if seed not in nodes or any(id(node) in self._taken for node in nodes):
                    continue
                if not _is_affine_alone(frame, nodes, dead) and not _is_one_for_another(nodes, dead):
                    inner = [item for item in nodes if not _is_normal(frame, item)]
                    yield NormSite(found[0], base, value, tuple(nodes), tuple(dead), found[1], tuple(inner))

    def _frame(
        self, scope: Scope, seed: Node, base: Value, path: Sequence[Node], parts: list[list[int]]
    ) -> Frame | None:
        """The frame of a base and the axes of a seed, worked out; None if there are no axes."""
        for _ in range(_MOST_SPLITS):
            frame = Frame(base, scope, self.shapes, self.extents, parts)
            try:
                if not set_axes(frame, seed, path):
                    return None
                frame.restart()
                frame.run(transfer, self._position)
            except SplitError as cut:
                parts = finer(parts, cut)
                continue
            return frame
        return None

    @property
    def _position(self) -> Callable[[Node], int]:
        return lambda node: self._positions[id(node)]


def with_operands(shapes: Shapes, site: NormSite) -> NormSite:
    """The norm with a Mul and an Add behind it whose operands are no constants, where an operator can take them as they are.

    They must have exactly the shape of what is normalised, the last dimensions of x, and nobody else may read the norm.
    """
    norm = site.norm
    if norm.gamma is not None or norm.beta is not None or not norm.is_suffix or norm.input_type != norm.output_type:
        return site
    scaled = _operand_behind(shapes, site, site.output, "Mul")
    if scaled is None:
        return site
    mul, scale = scaled
    nodes, operands, bias = [mul], [scale], None
    shifted = _operand_behind(shapes, site, mul.output, "Add") if norm.centred else None
    if shifted is not None:
        nodes.append(shifted[0])
        operands.append(shifted[1])
        bias = shifted[1].name
    return replace(
        site,
        norm=replace(norm, scale=scale.name, bias=bias),
        output=nodes[-1].output,
        nodes=(*site.nodes, *nodes),
        dead=(*site.dead, *nodes),
        operands=tuple(operands),
    )


def _operand_behind(shapes: Shapes, site: NormSite, value: Value, op_type: str) -> tuple[Node, Value] | None:
    """The only reader of a value, if it is such an operator, and its other operand."""
    if value.is_output or len(value.uses) != 1:
        return None
    node = value.uses[0].node
    wanted = site.norm.dims[site.norm.axes[0] :]
    if node.domain or node.op_type != op_type or node.scope is not site.end.scope or len(node.inputs) != 2:
        return None
    if node.scope.version < 7 or attributes.unexpected(node, ()):
        return None
    other = node.inputs[1 - value.uses[0].slot]
    if other is None or shapes.constants.get(other) is not None or shapes.data_type(other) != site.norm.input_type:
        return None
    static = all(isinstance(size, int) for size in wanted)
    return (node, other) if static and shapes.dims(other) == wanted else None


def finer(parts: list[list[int]], cut: SplitError) -> list[list[int]]:
    """The parts of every dimension with one atom cut in two."""
    finer: list[list[int]] = []
    count = 0
    for part in parts:
        new: list[int] = []
        for size in part:
            new += cut.factors if count == cut.atom else (size,)
            count += 1
        finer.append(new)
    return finer


def _is_normal(frame: Frame, node: Node) -> bool:
    facts = [frame.fact(value) for value in node.outputs]
    return any(fact is not None and isinstance(fact.form, Normal) for fact in facts)


def _between(frame: Frame, output: Value) -> list[Node]:
    """The nodes of a frame that a tensor depends on, in execution order."""
    inside = {id(node) for node in frame.nodes}
    wanted: set[int] = set()
    pending = [output]
    while pending:
        node = pending.pop().producer
        if node is None or id(node) not in inside or id(node) in wanted:
            continue
        wanted.add(id(node))
        pending += [value for value in node.inputs if value is not None and value is not frame.base]
    return [node for node in frame.nodes if id(node) in wanted]


def _paid_together(borrowing: Sequence[NormSite]) -> list[NormSite]:
    """Of norms that share their statistics with others, those whose statistics go when all of them go.

    A statistic that somebody else needs must be taken anyway, and an operator would only take it again.
    """
    sites = list(borrowing)
    while sites:
        gone = _gone_with(sites)
        paid = [site for site in sites if any(is_seed(node) and id(node) in gone for node in site.nodes)]
        if len(paid) == len(sites):
            break
        sites = paid
    return sites


def _gone_with(sites: Sequence[NormSite]) -> set[int]:
    """What nobody needs any more without some norms."""
    gone = {id(node) for site in sites for node in site.dead}
    for site in sites:
        for node in reversed(site.nodes):
            values = [value for value in node.outputs if value is not None]
            if all(not value.is_output and all(id(use.node) in gone for use in value.uses) for value in values):
                gone.add(id(node))
    return gone


def _is_affine_alone(frame: Frame, nodes: Sequence[Node], dead: Sequence[Node]) -> bool:
    """Whether somebody else needs a norm on the way: an operator in the place of what follows would only be a second one."""
    gone = {id(node) for node in dead}
    return any(id(node) not in gone and _is_normal(frame, node) for node in nodes)


def _is_one_for_another(nodes: Sequence[Node], dead: Sequence[Node]) -> bool:
    """Whether one operator alone would go, while what it reads is computed anyway: another one would do more."""
    return len(dead) == 1 and len(nodes) > 1 and is_seed(dead[0])


def _dead(nodes: Sequence[Node], output: Value) -> list[Node]:
    """Those of the nodes that nobody needs once something else makes the output; none if that cannot be."""
    end = output.producer
    if end is None or any(value is not None and value is not output and value.uses for value in end.outputs):
        return []
    if any(value is not None and value is not output and value.is_output for value in end.outputs):
        return []
    dead = {id(end)}
    for node in reversed(nodes):
        values = [value for value in node.outputs if value is not None]
        if all(not value.is_output and all(id(use.node) in dead for use in value.uses) for value in values):
            dead.add(id(node))
    return [node for node in nodes if id(node) in dead]
