"""The model with probes (§4.1): per-sample moments of what stands in front of each BatchNormalization, as further outputs.

Only `[N, C]` leaves the runtime, never an activation:

    D = X − shift          shift `[1, C, 1, …]`
    a = mean of D over space, q = mean of D² over space

Where X is what a convolution makes, its bias takes the shift (`conv_shift`).

Four forms of the normalisation itself are made: as written; with the statistics of the batch, as explicit operators
(training-mode nodes are never inserted: onnxruntime computes them wrongly when parameters share storage); with other stored
statistics; and with another epsilon. Training-mode nodes of the file always become explicit operators, which is what they
mean, because a malformed one can crash the runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import helper

from normfold.model import dtypes
from normfold.model.graph import Node, Value
from normfold.model.load import Model
from normfold.model.patch import Candidate
from normfold.statistics.collect import shift_of
from normfold.statistics.exact_sums import Float64
from normfold.statistics.probes.conv_shift import shifted_conv
from normfold.statistics.probes.graph_edit import Writer, free_prefix
from normfold.statistics.sites import BETA, GAMMA, MEAN, VAR, Mode, StatSite
from normfold.statistics.subject import Subject


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """A mean and a variance, `[C]` each, to be used instead of the stored ones."""

    mean: Float64
    var: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How the normalisations are written into the model that is run.

    Args:
        batch: all with the statistics of the batch; else with the stored ones.
        statistics: by key of the site, used in the place of the stored ones.
        epsilon: used everywhere, None for what is stored.
    """

    batch: bool = False
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    epsilon: float | None = None


# From this opset on a cast can name a tensor that has the wanted type.
_CAST_LIKE = 15
STORED, BATCH = Form(), Form(batch=True)


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Where the moments of a site come out: names of outputs, and what was subtracted, `[C]`, in storage precision.

    `mean` and `square` are `[R, C]`, `shape` the dimensions of X. Without spatial dimensions `square` is "": it is mean².
    """

    site: StatSite
    mean: str
    square: str
    shape: str
    shift: Float64


@dataclass(frozen=True, slots=True, eq=False)
class Instrumented:
    """A model to run.

    Args:
        candidate: with probes as further outputs.
        probes: in execution order.
        skipped: sites without a probe, by key, with the reason.
    """

    candidate: Candidate
    probes: tuple[Probe, ...]
    skipped: Mapping[str, str]

    @property
    def fetch(self) -> tuple[str, ...]:
        """The outputs that the probes read."""
        return tuple(name for p in self.probes for name in (p.mean, p.square, p.shape) if name)


def instrument(
    subject: Subject, form: Form = STORED, *, only: Collection[str] | None = None, cut: bool = False
) -> Instrumented:
    """Put probes into a model.

    Args:
        subject: not changed.
        form: of the normalisations.
        only: keys of the sites to probe, None for all. All are rewritten as the form says.
        cut: leave away what the probes do not need, the outputs of the model among it.
    """
    candidate = Candidate(subject.model, {}, dict(subject.model.metadata))
    if cut:
        _cut(candidate, [site for site in subject.sites if only is None or site.key in only])
    gone = candidate.patch(subject.model.graph).dropped_nodes if cut else set()
    dependent = _DependsOnInput(subject.model)
    prefix = free_prefix(subject.model)
    probes: list[Probe] = []
    skipped: dict[str, str] = {}
    for site in subject.sites:
        reason = unprobed(site, subject.model, dependent)
        if reason:
            skipped[site.key] = reason
            continue
        maker = _Site(site, subject, candidate, f"{prefix}/{site.position}", form)
        if only is None or site.key in only:
            probes.append(maker.probe())
        if site.node.index not in gone:
            maker.normalise()
    return Instrumented(candidate, tuple(probes), skipped)


def unprobed(site: StatSite, model: Model, dependent: _DependsOnInput) -> str:
    """Why a site cannot be probed, "" where it can."""
    if site.node.scope.is_function:
        return "it stands in a function that cannot be inlined: what is computed there does not reach the outputs"
    if site.node.scope is not model.graph:
        return (
            "it stands in a body of If, Loop or Scan: what is computed there does not reach the outputs; to check it with "
            "data, export the body as a model of its own, or with a condition that is constant"
        )
    if not dependent(site):
        return "its input does not depend on an input of the model"
    if site.mean is None or site.var is None:
        reasons = [
            f"its {name} cannot be read: {why}" for name, why in site.unreadable.items() if name in ("mean", "var")
        ]
        return "; ".join(reasons) or "it has no statistics"
    if site.mean.shape != site.var.shape:
        return f"{site.mean.size} means and {site.var.size} variances"
    if site.epsilon is None:
        return "its epsilon is not known"
    return ""


def _cut(candidate: Candidate, sites: Sequence[StatSite]) -> None:
    """Drop the nodes of the main graph that nothing in front of these sites needs."""
    graph = candidate.model.graph
    pending = [site.x for site in sites if site.node.scope is graph]
    needed: set[int] = set()
    while pending:
        producer = pending.pop().producer
        if producer is None or producer.scope is not graph or producer.index in needed:
            continue
        needed.add(producer.index)
        pending += reads(producer)
    patch = candidate.patch(graph)
    patch.dropped_nodes |= {node.index for node in graph.nodes} - needed
    patch.dropped_outputs |= {value.name for value in graph.outputs}


def reads(node: Node) -> list[Value]:
    """What a node reads, bodies included."""
    inner = [n for body in node.subgraphs for scope in body.walk() for n in scope.nodes]
    captured = [v for body in node.subgraphs for scope in body.walk() for v in scope.outputs]
    return [v for n in (node, *inner) for v in n.inputs if v is not None] + captured


class _DependsOnInput:
    """Whether a value of the main graph depends on what a caller feeds."""

    def __init__(self, model: Model) -> None:
        reached = {id(value) for value in model.graph.inputs if value.tensor is None}
        for node in model.graph.nodes:  # in execution order
            if any(id(value) in reached for value in reads(node)):
                reached |= {id(value) for value in node.outputs if value is not None}
        self._reached = reached

    def __call__(self, site: StatSite) -> bool:
        return id(site.x) in self._reached


class _Site:
    """Rewrites one BatchNormalization."""

    def __init__(self, site: StatSite, subject: Subject, candidate: Candidate, prefix: str, form: Form) -> None:
        self.site, self.constants, self.form, self.prefix = site, subject.constants, form, prefix
        self.patch = candidate.patch(site.node.scope)
        self.graph = Writer(self.patch, site.node, prefix)
        self.double = site.dtype == dtypes.DOUBLE
        self.data_type = dtypes.DOUBLE if self.double else dtypes.FLOAT
        self.epsilon = site.epsilon if form.epsilon is None else form.epsilon
        self._moments: tuple[str, str, str, Float64] | None = None
        # What X was made smaller by before it reaches the node; the mean of the node has to follow.
        self._taken: Float64 | None = None

    # --- what stands in front ---

    def probe(self) -> Probe:
        _, mean, square, shift = self._measure()
        shape = self.graph.operator("Shape", [self.site.x.name])
        for name in (mean, square, shape):
            if name:
                self.patch.added_outputs.append(helper.make_empty_tensor_value_info(name))
        return Probe(self.site, mean, square, shape, shift)

    def _measure(self) -> tuple[str, str, str, Float64]:
        """Names of D, a and q (q "" without space), and the shift as it was rounded."""
        if self._moments is None:
            self._moments = self._measured()
        return self._moments

    def _measured(self) -> tuple[str, str, str, Float64]:
        site, graph = self.site, self.graph
        assert site.mean is not None
        x = site.x.name
        rounded = shift_of(site.mean).astype(np.float64 if self.double else np.float32)
        rounded = np.where(np.isfinite(rounded), rounded, 0)
        conv = shifted_conv(site, self.constants, rounded.astype(np.float64)) if site.rank is not None else None
        if conv is not None:
            conv_inputs = conv.write(Writer(self.patch, conv.node, f"{self.prefix}/bias"))
            self.patch.node(conv.node.index).inputs = conv_inputs
            self._taken = conv.shift
            return self._moments_of(x, conv.shift)
        if site.dtype != self.data_type:
            x = graph.cast(x, self.data_type)
        rank = site.rank
        if rank is None:  # the third dimension of a matrix is then 1
            x, rank = graph.reshape(x, (0, 0, -1)), 3
        shift = graph.constant(rounded.reshape(1, -1, *(1,) * (rank - 2)))
        return self._moments_of(graph.operator("Sub", [x, shift]), rounded.astype(np.float64), rank)

    def _moments_of(self, shifted: str, shift: Float64, rank: int | None = None) -> tuple[str, str, str, Float64]:
        """Probe what is shifted already."""
        rank = rank or self.site.rank
        assert rank is not None
        space = range(2, rank)
        if not space:
            return shifted, shifted, "", shift
        mean = self.graph.mean(shifted, space, keepdims=False)
        # ReduceSumSquare would need no product in memory, and takes twice as long on the CPU.
        product = self.graph.operator("Mul", [shifted, shifted])
        return shifted, mean, self.graph.mean(product, space, keepdims=False), shift

    # --- the normalisation itself ---

    def normalise(self) -> None:
        """Write the node as the form says."""
        given = self.form.statistics.get(self.site.key)
        if given is not None:
            self._with(given)
        elif self.form.batch or self.site.mode is not Mode.INFERENCE:
            self._with_batch()
        else:
            if self.form.epsilon is not None:
                self._set_epsilon()
            if self._taken is not None:
                self._follow(self._taken)

    def _follow(self, taken: Float64) -> None:
        """Make the stored mean that of what the node now sees."""
        node, mean = self.site.node, self.site.mean
        assert mean is not None
        names = list(node.proto.input)
        names[MEAN] = self.graph.constant(mean - taken, self._stored_type(MEAN))
        self.patch.node(node.index).inputs = names

    def _stored_type(self, slot: int) -> int:
        value = self.site.parameter(slot)
        stored = value.tensor.data_type if value is not None and value.tensor is not None else self.site.dtype
        return stored or dtypes.FLOAT

    def _set_epsilon(self) -> None:
        assert self.epsilon is not None
        attribute = helper.make_attribute("epsilon", float(self.epsilon))
        self.patch.node(self.site.node.index).attributes["epsilon"] = attribute

    def _with(self, given: Statistics) -> None:
        """Inference with other statistics."""
        node = self.site.node
        patch = self.patch.node(node.index)
        names = list(node.proto.input)
        mean = given.mean if self._taken is None else given.mean - self._taken
        for slot, values in ((MEAN, mean), (VAR, given.var)):
            names[slot] = self.graph.constant(values, self._stored_type(slot))
        patch.inputs, patch.outputs = names, [node.proto.output[0]]
        if "training_mode" in node.attributes:
            patch.attributes["training_mode"] = None
        self._set_epsilon()

    def _with_batch(self) -> None:
        """Explicit operators: the statistics of the batch, biased, as training has them."""
        site, graph = self.site, self.graph
        if site.y is None:
            return
        rank = site.rank or 3
        shifted, mean, square, _ = self._measure()
        centre = graph.mean(mean, [0], keepdims=True)  # [1, C]
        per_sample = square or graph.operator("Mul", [mean, mean])
        raw = graph.mean(per_sample, [0], keepdims=True)
        var = graph.operator("Sub", [raw, graph.operator("Mul", [centre, centre])])
        epsilon = graph.constant(np.array([self.epsilon], np.float64 if self.double else np.float32))
        spread = graph.operator("Sqrt", [graph.operator("Add", [graph.operator("Relu", [var]), epsilon])])
        scale = graph.operator("Div", [self._parameter(GAMMA), spread])
        offset = graph.operator("Sub", [self._parameter(BETA), graph.operator("Mul", [centre, scale])])
        dims = (1, -1, *(1,) * (rank - 2))
        scaled = graph.operator("Mul", [shifted, graph.reshape(scale, dims)])
        self._deliver([scaled, graph.reshape(offset, dims)])
        self._keep_statistics()
        self.patch.dropped_nodes.add(site.node.index)

    def _parameter(self, slot: int) -> str:
        """`[1, C]` in the type that is computed in."""
        value = self.site.parameter(slot)
        assert value is not None
        return self.graph.reshape(self.graph.cast(value.name, self.data_type), (1, -1))

    def _deliver(self, terms: list[str]) -> None:
        """The sum of two terms, with the name, the type and, where X was flattened, the shape of what the node makes."""
        site, graph = self.site, self.graph
        assert site.y is not None
        name = site.y.name
        if site.rank is not None and site.dtype == self.data_type:
            graph.operator("Add", terms, name)
            return
        value = graph.operator("Add", terms)
        if site.rank is None:
            value = graph.operator("Reshape", [value, graph.operator("Shape", [site.x.name])])
        if site.dtype is not None:
            graph.operator("Cast", [value], name, to=site.dtype)
        elif site.opset >= _CAST_LIKE:
            graph.operator("CastLike", [value, site.x.name], name)
        else:  # an unknown type is taken for what it nearly always is
            graph.operator("Identity", [value], name)

    def _keep_statistics(self) -> None:
        """A training-mode node also makes statistics; who reads them gets the stored ones."""
        node = self.site.node
        for slot, value in enumerate(node.outputs[1:]):
            if value is not None and (value.uses or value.is_output):
                self.graph.operator("Identity", [node.proto.input[VAR if slot % 2 else MEAN]], value.name)


def probed_sites(subject: Subject) -> Iterator[StatSite]:
    """The sites that can be measured, in execution order."""
    dependent = _DependsOnInput(subject.model)
    return (site for site in subject.sites if not unprobed(site, subject.model, dependent))
