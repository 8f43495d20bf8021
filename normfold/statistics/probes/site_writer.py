"""One normalisation of the model that is run: its probe, and itself in the form that is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from normfold.model import dtypes
from normfold.model.patch import Candidate
from normfold.statistics.collect import shift_of
from normfold.statistics.exact_sums import Float64
from normfold.statistics.probes.bodies import Exits
from normfold.statistics.probes.conv_shift import shifted_conv
from normfold.statistics.probes.forms import Form, Statistics
from normfold.statistics.probes.graph_edit import Writer
from normfold.statistics.probes.reach import is_repeated
from normfold.statistics.sites import BETA, GAMMA, MEAN, VAR, Mode, StatSite
from normfold.statistics.subject import Subject

INT64 = TensorProto.INT64
# From this opset on a cast can name a tensor that has the wanted type.
_CAST_LIKE = 15


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Where the moments of a site come out: names of outputs, and what was subtracted, `[C]`, in storage precision.

    `mean` and `square` are `[R, C]`. Without spatial dimensions `square` is "": it is mean². `shape` holds the dimensions of
    X; in a body `[K, rank]`, one row for each time that the body was run, and R counts the rows of all of them.
    """

    site: StatSite
    mean: str
    square: str
    shape: str
    shift: Float64

    @property
    def in_body(self) -> bool:
        """Whether it stands in a body, which may be run any number of times for a batch."""
        return self.site.node.scope.owner is not None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names that there are."""
        return tuple(name for name in (self.mean, self.square, self.shape) if name)


class SiteWriter:
    """Rewrites one BatchNormalization.

    Args:
        site: of the model of the subject; it can be probed.
        subject: not changed.
        candidate: takes the changes.
        prefix: of all names; nothing else has it.
        form: of the normalisation.
    """

    def __init__(self, site: StatSite, subject: Subject, candidate: Candidate, prefix: str, form: Form) -> None:
        self.site, self.constants, self.form, self.prefix = site, subject.constants, form, prefix
        self.patch = candidate.patch(site.node.scope)
        self.graph = Writer.beside(self.patch, site.node, prefix)
        self.double = site.dtype == dtypes.DOUBLE
        self.data_type = dtypes.DOUBLE if self.double else dtypes.FLOAT
        # Of what is measured: the third dimension of a matrix whose rank is not known is 1.
        self.rank = 3 if site.rank is None else site.rank
        self.epsilon = site.epsilon if form.epsilon is None else form.epsilon
        self._moments: tuple[str, str, str, Float64] | None = None
        # What X was made smaller by before it reaches the node; the mean of the node has to follow.
        self._taken: Float64 | None = None

    # --- what stands in front ---

    def probe(self, exits: Exits) -> Probe:
        """Write the probe; what it makes in a body leaves it through `exits`."""
        shifted, mean, square, shift = self._measure()
        shape = self.graph.operator("Shape", [shifted])
        scope, rank = self.site.node.scope, self.rank
        if scope.owner is not None:
            shape = self.graph.reshape(shape, (1, rank))
        wanted = ((mean, self.data_type, shift.size), (square, self.data_type, shift.size), (shape, INT64, rank))
        outer = [exits.lift(scope, name, kind, width) if name else "" for name, kind, width in wanted]
        return Probe(self.site, outer[0], outer[1], outer[2], shift)

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
            conv_inputs = conv.write(Writer.beside(self.patch, conv.node, f"{self.prefix}/bias"))
            self.patch.node(conv.node.index).inputs = conv_inputs
            self._taken = conv.shift
            return self._moments_of(x, conv.shift)
        if site.dtype != self.data_type:
            x = graph.cast(x, self.data_type)
        if site.rank is None:
            x = graph.reshape(x, (0, 0, -1))
        shift = graph.constant(rounded.reshape(1, -1, *(1,) * (self.rank - 2)))
        return self._moments_of(graph.operator("Sub", [x, shift]), rounded.astype(np.float64))

    def _moments_of(self, shifted: str, shift: Float64) -> tuple[str, str, str, Float64]:
        """Probe what is shifted already."""
        space = range(2, self.rank)
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
        elif self.site.mode is not Mode.INFERENCE or (self.form.batch and not is_repeated(self.site)):
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
        shifted, mean, square, _ = self._measure()
        centre = graph.mean(mean, [0], keepdims=True)  # [1, C]
        per_sample = square or graph.operator("Mul", [mean, mean])
        raw = graph.mean(per_sample, [0], keepdims=True)
        var = graph.operator("Sub", [raw, graph.operator("Mul", [centre, centre])])
        epsilon = graph.constant(np.array([self.epsilon], np.float64 if self.double else np.float32))
        spread = graph.operator("Sqrt", [graph.operator("Add", [graph.operator("Relu", [var]), epsilon])])
        scale = graph.operator("Div", [self._parameter(GAMMA), spread])
        offset = graph.operator("Sub", [self._parameter(BETA), graph.operator("Mul", [centre, scale])])
        dims = (1, -1, *(1,) * (self.rank - 2))
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
