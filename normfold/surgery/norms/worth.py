"""Whether it pays to spell a norm anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from normfold.model.graph import Node, Value
from normfold.norm.recognise import NormSite
from normfold.surgery.norms.unsupported import unfit
from normfold.targets.lowering import Lowering
from normfold.targets.names import Target
from normfold.targets.passes import passes, passes_of
from normfold.targets.tables import table_of


def is_valid(lowering: Lowering, opset: int) -> bool:
    """Whether every node means in an opset what it was written for, and has a kernel."""
    return lowering.opset <= opset <= min(lowering.newest or opset, lowering.valid_until or opset)


def is_spelled(dead: Sequence[Node], lowering: Lowering) -> bool:
    """Whether the nodes that would go are those that would come."""
    new = Counter((op.domain, op.op_type) for op in lowering.nodes)
    return new == Counter((node.domain, node.op_type) for node in dead)


def gains(site: NormSite, dead: Sequence[Node], lowering: Lowering, target: Target, *, precise: bool) -> bool:
    """Whether fewer operators are left, as many of a better kind, or one that the target has no kernel for goes.

    Args:
        site, dead: the norm, and the nodes that would go.
        lowering: what would come.
        target, precise: where it runs, and whether there is a precision bound.
    """
    if site.borrows:
        return _pays_beside(site, dead, lowering)
    if any(_lacks(node, site, target, precise=precise) for node in dead):
        return True
    if lowering.fallback:
        return len(lowering.nodes) < len(dead) and passes_of(lowering) <= _passes(dead, site.base)
    return len(lowering.nodes) <= len(dead)


def _pays_beside(site: NormSite, dead: Sequence[Node], lowering: Lowering) -> bool:
    """Whether an operator is worth it although the statistics have to be taken beside it as well.

    On a CPU (onnxruntime 1.31, one thread and two, 19k to 786k elements) a mean square beside one operator is 1.26 to 1.46
    times faster than with division and scale; mean and variance beside LayerNormalization take 0.8 to 1.5 times as long.
    """
    saved = _passes(dead, site.base) - passes_of(lowering)
    return not site.norm.centred and not lowering.fallback and saved > 0


def _lacks(node: Node, site: NormSite, target: Target, *, precise: bool) -> bool:
    """Whether the target has no kernel for a node as it stands, or none that is precise enough."""
    kernel, why = table_of(target).kernel(node.op_type, node.domain), unfit(node, target, precise=precise)
    if kernel is None or why:
        return bool(why)
    if site.norm.input_type not in kernel.types | kernel.left:
        return True
    return kernel.newest is not None and node.scope.version > kernel.newest


def _passes(nodes: Sequence[Node], base: Value) -> int:
    steps = ((n.op_type, [id(v) for v in n.inputs], [id(v) for v in n.outputs]) for n in nodes)
    return passes(steps, id(base))
