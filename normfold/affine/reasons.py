"""Why an affine stays: the stable keys, what each means, and the refusal that carries one."""

from __future__ import annotations

from normfold.refusal import Refusal

REASONS: dict[str, str] = {
    "training-mode": "the BatchNormalization normalises with the statistics of the batch, not with the stored ones",
    "computed-stats": "mean or variance are computed from the data: this is another norm in the dress of a BatchNormalization",
    "dynamic-params": "a parameter is not a constant",
    "sparse": "a parameter is stored as a sparse tensor, which normfold does not read",
    "constant": "the BatchNormalization works on a constant, for a weight that did not change; it costs nothing at inference",
    "overridable": "a parameter is an initializer that a caller may override; --initializers freeze makes it a constant",
    "spatial": "the BatchNormalization has one parameter per activation (spatial = 0), not per channel",
    "ill-formed": "shape, type or attribute contradict the operator's definition",
    "unknown-attribute": "the node carries an attribute that changes its meaning and that normfold does not handle",
    "not-per-channel": "the constant varies along an axis that the neighbour's weights do not have",
    "broadcast": "the constant enlarges the tensor that it is applied to",
    "shape-unknown": "rank or channel axis cannot be proven",
    "shared": "the tensor in between has another reader, which would see the change",
    "graph-output": "the tensor in between is an output of the graph",
    "captured": "the tensor in between is read inside a subgraph, or comes from outside of one",
    "no-absorber": "there is no operator with weights that could take it",
    "shift-blocked": "a scale could move past this operator, the shift cannot",
    "padded-shift": "the shift would reach an operator that pads with zeros, which are no shifted zeros",
    "geometry": "strides, dilations, padding or groups do not fit together: no single operator computes the same",
    "negative-scale": "an activation or pooling lets only non-negative scales through",
    "branch": "not every branch can take its part",
    "quantised": "a quantisation boundary lies in between, or a quantised weight has no scale that could express it",
    "custom-domain": "an operator of another domain lies in between",
    "non-finite": "a parameter or a folded value is not finite",
    "nonpositive-variance": "variance + epsilon is not positive",
    "dtype-range": "a folded value leaves the range of its type",
    "external-data": "the data of a parameter cannot be read",
    "fused-pattern": "it is part of a norm or a GELU that runtimes fuse into one operator; without it they could not",
    "bias-in-place": "it already is the bias of the operator before it; folding would remove nothing",
    "cost": "folding would cost more than it saves",
    "search-limit": "the search for a neighbour with weights was given up after many steps",
    "opset": "an operator is needed in another opset than the one it is written for, and has no exact form there",
    "user-keep": "excluded by --skip or --only",
    "verification": "verification found a difference that rounding cannot explain; the edit was dropped",
}


class Refused(Refusal):
    """A rule declines; the search goes on elsewhere. `key` is one of `REASONS`."""

    reasons = REASONS
