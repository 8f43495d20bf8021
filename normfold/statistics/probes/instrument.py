"""The model with probes (§4.1): per-sample moments of what stands in front of each BatchNormalization, as further outputs.

Only `[N, C]` leaves the runtime, never an activation:

    D = X − shift          shift `[1, C, 1, …]`
    a = mean of D over space, q = mean of D² over space

Where X is what a convolution makes, its bias takes the shift (`conv_shift`). Moments of what stands in the body of an If, Loop
or Scan leave it as further outputs of the operator (`bodies`).

Four forms of the normalisation itself are made: as written; with the statistics of the batch, as explicit operators
(training-mode nodes are never inserted: onnxruntime computes them wrongly when parameters share storage); with other stored
statistics; and with another epsilon. Training-mode nodes of the file always become explicit operators, which is what they
mean, because a malformed one can crash the runtime.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import helper

from normfold.model.graph import Node, Value
from normfold.model.patch import Candidate
from normfold.statistics.probes.bodies import Exits
from normfold.statistics.probes.forms import STORED, Form
from normfold.statistics.probes.graph_edit import free_prefix
from normfold.statistics.probes.reach import DependsOnInput, owners, reads, unprobed
from normfold.statistics.probes.site_writer import Probe, SiteWriter
from normfold.statistics.sites import StatSite
from normfold.statistics.subject import Subject


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
        return tuple(name for probe in self.probes for name in probe.outputs)


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
    graph = candidate.patch(subject.model.graph)
    dependent = DependsOnInput(subject.model)
    prefix = free_prefix(subject.model)
    exits = Exits(candidate, f"{prefix}/exit")
    probes: list[Probe] = []
    skipped: dict[str, str] = {}
    for site in subject.sites:
        reason = unprobed(site, subject.model, dependent)
        if reason:
            skipped[site.key] = reason
            continue
        maker = SiteWriter(site, subject, candidate, f"{prefix}/{site.position}", form)
        if only is None or site.key in only:
            probes.append(maker.probe(exits))
        if _in_graph(site.node).index not in graph.dropped_nodes:
            maker.normalise()
    exits.write()
    made = Instrumented(candidate, tuple(probes), skipped)
    graph.added_outputs += [helper.make_empty_tensor_value_info(name) for name in made.fetch]
    return made


def _in_graph(node: Node) -> Node:
    """The operator of the main graph that a node stands in, itself if it stands there."""
    return [node, *owners(node)][-1]


def _cut(candidate: Candidate, sites: Sequence[StatSite]) -> None:
    """Drop the nodes of the main graph that nothing in front of these sites needs."""
    graph = candidate.model.graph
    needed: set[int] = set()
    pending: list[Value] = []
    for site in sites:
        outermost = _in_graph(site.node)
        if outermost.scope is not graph:
            continue  # in a function
        if outermost is site.node:
            pending.append(site.x)
        else:
            needed.add(outermost.index)
            pending += reads(outermost)
    while pending:
        producer = pending.pop().producer
        if producer is None or producer.scope is not graph or producer.index in needed:
            continue
        needed.add(producer.index)
        pending += reads(producer)
    patch = candidate.patch(graph)
    patch.dropped_nodes |= {node.index for node in graph.nodes} - needed
    patch.dropped_outputs |= {value.name for value in graph.outputs}
