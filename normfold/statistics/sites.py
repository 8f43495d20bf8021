"""The normalisations of a model with what is stored about them.

Produced here from the loaded graph; consumed by the file findings, by the probes (which read `x`, `mean`, `epsilon`), and by
whoever compares with a checkpoint. A `StatSite` has running statistics; a `StatelessSite` normalises with statistics of the
sample itself and has only an epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from normfold.model import attributes, dtypes
from normfold.model.constants import Constants
from normfold.model.functions import Functions
from normfold.model.graph import Node, Scope, Value
from normfold.model.load import Model
from normfold.model.shapes import Dims, Shapes
from normfold.model.tensors import Float64, TensorSource, Unreadable
from normfold.norm.sites import is_norm_operator

BATCH_NORM = "BatchNormalization"
GAMMA, BETA, MEAN, VAR = 1, 2, 3, 4  # input slots
# A variance of 1 - epsilon, stored as float32.
_ROUNDED = 2.0**-23

_SLOTS = {"gamma": GAMMA, "beta": BETA, "mean": MEAN, "var": VAR}
# A LayerNormalization and its like have an epsilon; these operators have none or one of another meaning.
_WITHOUT_EPSILON = frozenset(("LRN", "LpNormalization", "MeanVarianceNormalization"))


class Mode(StrEnum):
    """How a BatchNormalization is written (§2.1): the node as it stands, unused outputs included."""

    INFERENCE = "inference"
    TRAINING = "training"
    UNKNOWN = "unknown"  # the caller of a function decides, or the attributes are none of the operator's


@dataclass(frozen=True, slots=True, eq=False)
class StatSite:
    """A BatchNormalization.

    Args:
        node: in the model of the subject (calls inlined); `key` and `label` are its own.
        position: in execution order over all sites, from 0.
        x, y: what it normalises, and the result.
        dims: of x, None where even the rank is unknown.
        dtype: ONNX element type of x, None where it is unknown.
        channels: C, from the parameters or from x; None where neither is known.
        mode: training or inference; `mode_reason` says by what.
        epsilon: the stored float32 value, widened; None where a caller gives it.
        momentum: weight of the *old* value, as ONNX has it; None where the attribute is absent.
        gamma, beta, mean, var: `[C]` in float64; None where `unreadable` names the parameter.
        overridable: names of parameters that are also graph inputs; their values are the stored defaults.
        unreadable: parameters that are computed, missing, or no vector: name -> why.
    """

    node: Node
    key: str
    label: str
    position: int
    x: Value
    y: Value | None
    dims: Dims | None
    dtype: int | None
    channels: int | None
    opset: int
    mode: Mode
    mode_reason: str
    epsilon: float | None
    momentum: float | None
    gamma: Float64 | None
    beta: Float64 | None
    mean: Float64 | None
    var: Float64 | None
    overridable: tuple[str, ...]
    unreadable: dict[str, str]

    @property
    def has_statistics(self) -> bool:
        """Whether mean and variance are stored, and can be read, one per channel."""
        return self.mean is not None and self.var is not None and self.mean.shape == self.var.shape

    @property
    def rank(self) -> int | None:
        """Number of dimensions of x."""
        return None if self.dims is None else len(self.dims)

    @property
    def uses_batch(self) -> bool:
        """Whether it normalises with statistics of the batch."""
        return self.mode is Mode.TRAINING

    def parameter(self, slot: int) -> Value | None:
        """The value in slot GAMMA, BETA, MEAN or VAR."""
        return self.node.input(slot)


@dataclass(frozen=True, slots=True, eq=False)
class StatelessSite:
    """A norm that takes its statistics from the sample itself; `epsilon` is None where the operator has none."""

    node: Node
    key: str
    label: str
    position: int
    op_type: str
    dtype: int | None
    epsilon: float | None


def execution_order(model: Model) -> Iterator[Node]:
    """All nodes of the main graph with their subgraphs, then those of functions that are still called."""
    functions = Functions(model.functions, model.trust.caps)
    called = functions.reachable([model.graph])
    bodies = [scope for _, scope in model.functions if id(scope) in called]
    for root in (model.graph, *bodies):
        yield from _nodes(root)


def _nodes(root: Scope) -> Iterator[Node]:
    pending: list[Iterator[Node]] = [iter(root.nodes)]
    while pending:
        node = next(pending[-1], None)
        if node is None:
            pending.pop()
            continue
        yield node
        pending.extend(iter(inner.nodes) for inner in reversed(node.subgraphs))


def is_batch_norm(node: Node) -> bool:
    """Whether a node is the standard operator."""
    return node.op_type == BATCH_NORM and not node.domain and not node.is_call


def stat_sites(
    model: Model, constants: Constants | None = None, shapes: Shapes | None = None
) -> tuple[StatSite | StatelessSite, ...]:
    """Every norm operator in execution order.

    Args:
        model: with calls inlined, if functions are to be seen with the weights that they are called with.
        constants, shapes: of the same model, to share their answers.

    Raises:
        InputError: the data of a parameter is missing or damaged.
    """
    constants = constants or Constants()
    shapes = shapes or Shapes(constants)
    found: list[StatSite | StatelessSite] = []
    for node in execution_order(model):
        if is_batch_norm(node) and node.input(0) is not None:
            site = _stat_site(node, len(found), constants, shapes)
            if not is_affine(site):
                found.append(site)
        elif is_norm_operator(node) and not node.is_call:
            found.append(_stateless(node, len(found), shapes))
    return tuple(found)


def is_affine(site: StatSite) -> bool:
    """Whether a BatchNormalization only writes an affine: mean 0 and variance 1 - epsilon, so that nothing is normalised.

    Converters write a Scale layer so, and a GroupNorm for onnxruntime on one thread ends with one.
    """
    if site.mean is None or site.var is None or site.epsilon is None or site.uses_batch or (site.mean != 0).any():
        return False
    return bool((np.abs(site.var + site.epsilon - 1.0) <= _ROUNDED).all())


def _stat_site(node: Node, position: int, constants: Constants, shapes: Shapes) -> StatSite:
    x = node.inputs[0]
    assert x is not None
    values: dict[str, Float64 | None] = {}
    unreadable: dict[str, str] = {}
    for name, slot in _SLOTS.items():
        try:
            values[name] = _vector(node.input(slot), constants)
        except Unreadable as error:
            values[name], unreadable[name] = None, str(error)
    overridable = tuple(v.name for v in (node.input(slot) for slot in _SLOTS.values()) if v is not None and v.exposed)
    dims = shapes.dims(x)
    mode, reason = _mode(node)
    return StatSite(
        node=node, key=node.key, label=node.label, position=position, x=x, y=node.outputs[0] if node.outputs else None,
        dims=dims, dtype=shapes.data_type(x), channels=_channels(values, dims), opset=node.scope.version,
        mode=mode, mode_reason=reason, epsilon=_number(node, "epsilon", 1e-5), momentum=_number(node, "momentum", None),
        **values, overridable=overridable, unreadable=unreadable,
    )  # fmt: skip


def _vector(value: Value | None, constants: Constants) -> Float64:
    """A parameter as float64 `[C]`; of one that a caller may override, the stored default."""
    if value is None:
        raise Unreadable("it is left out")
    source: TensorSource | None = value.tensor if value.exposed else constants.get(value)
    if source is None:
        raise Unreadable("stored sparsely" if constants.is_sparse(value) else "computed while the model runs")
    if len(source.dims) != 1:
        raise Unreadable(f"its shape is {list(source.dims)}, wanted one value per channel")
    return constants.vector(source)


def _channels(values: dict[str, Float64 | None], dims: Dims | None) -> int | None:
    sizes = [vector.size for vector in values.values() if vector is not None]
    if sizes:
        return sizes[0]
    size = dims[1] if dims is not None and len(dims) > 1 else None
    return size if isinstance(size, int) else None


def _number(node: Node, name: str, default: float | None) -> float | None:
    attribute = node.attributes.get(name)
    if attribute is not None and attribute.ref_attr_name:
        return None
    value: Any = attributes.get(node, name, default)
    return None if value is None else float(np.float32(value))


def _mode(node: Node) -> tuple[Mode, str]:
    """The rules per opset (§2.1), with the words for the report."""
    version = node.scope.version
    bound = [a.name for a in node.attributes.values() if a.ref_attr_name and a.name in ("is_test", "training_mode")]
    if bound:
        return Mode.UNKNOWN, f"the caller of the function decides about {bound[0]}"
    if version < 7:
        if attributes.get(node, "is_test", 0):
            return Mode.INFERENCE, "is_test = 1"
        return Mode.TRAINING, f"is_test is not set, which means training before opset 7 (opset {version})"
    declared = len(node.proto.output)
    if version < 14:
        if declared > 1:
            return Mode.TRAINING, f"it declares {declared} outputs, which means training in opsets 7 to 13"
        return Mode.INFERENCE, "one output"
    if attributes.get(node, "training_mode", 0):
        return Mode.TRAINING, "training_mode = 1"
    if declared > 1:
        return Mode.TRAINING, f"it declares {declared} outputs, which only training makes"
    return Mode.INFERENCE, "training_mode = 0"


def _stateless(node: Node, position: int, shapes: Shapes) -> StatelessSite:
    x = node.input(0)
    epsilon = None if node.op_type in _WITHOUT_EPSILON else _number(node, "epsilon", _default_epsilon(node))
    dtype = None if x is None else shapes.data_type(x)
    return StatelessSite(node, node.key, node.label, position, node.op_type, dtype, epsilon)


def _default_epsilon(node: Node) -> float:
    # The contrib embedding and skip norms have their own default.
    return 1e-12 if node.op_type in ("EmbedLayerNormalization", "SkipLayerNormalization") and node.domain else 1e-5


def is_half(dtype: int | None) -> bool:
    """Whether numbers of this type have the small range of float16."""
    return dtype == dtypes.FLOAT16
