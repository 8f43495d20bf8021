"""Norm operators that are already one node: what they are, for the report and for `inspect`."""

from __future__ import annotations

from normfold.model import attributes
from normfold.model.graph import Node

STATELESS = frozenset(
    (
        "LayerNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "RMSNormalization",
        "MeanVarianceNormalization",
        "LpNormalization",
        "LRN",
    )
)
_CONTRIB = frozenset(
    (
        "SkipLayerNormalization",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "LayerNormalization",
        "GroupNorm",
        "SkipGroupNorm",
        "EmbedLayerNormalization",
        "BatchNormalization",
    )
)


def is_norm_operator(node: Node) -> bool:
    """Whether a node is a norm that normalises with statistics of its input."""
    if node.domain:
        return node.domain.startswith("com.microsoft") and node.op_type in _CONTRIB
    # onnxruntime registers this one in the standard domain although the standard has no such operator
    return node.op_type in STATELESS or node.op_type == "SimplifiedLayerNormalization"


def parameters(node: Node) -> dict[str, object]:
    """The attributes that say what is normalised, those that are absent with the value that they default to."""
    shown: dict[str, object] = {name: attributes.shown(attribute) for name, attribute in node.attributes.items()}
    if node.op_type in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):
        shown.setdefault("axis", -1)
    if node.op_type not in ("LpNormalization", "LRN", "MeanVarianceNormalization"):
        shown.setdefault("epsilon", 1e-5)
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for name, value in sorted(shown.items())
    }
