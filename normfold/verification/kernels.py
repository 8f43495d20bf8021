"""What computes an operator where verification runs: a kernel, its function body expanded by the runtime, or an emulation.

Measured with onnxruntime 1.31 on CPU; element types that older releases lack are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from onnx import NodeProto, TensorProto

from .definitions import MICROSOFT, Key, key

CPU = "CPUExecutionProvider"
# The provider that runs a target's models inside onnxruntime. A portable model names none.
PROVIDERS = {
    "ort-cpu": CPU,
    "ort-cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

_SINGLE = frozenset((TensorProto.FLOAT, TensorProto.FLOAT16))
_ALL = _SINGLE | {TensorProto.DOUBLE}
_NOTHING: frozenset[int] = frozenset()
_KERNELS: dict[Key, frozenset[int]] = {
    ("", "LayerNormalization"): _ALL,
    ("", "SimplifiedLayerNormalization"): _ALL,
    ("", "RMSNormalization"): _ALL,
    ("", "InstanceNormalization"): _SINGLE,
    ("", "MeanVarianceNormalization"): frozenset((TensorProto.FLOAT,)),
    (MICROSOFT, "SkipLayerNormalization"): _SINGLE,
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): _SINGLE,
    (MICROSOFT, "GroupNorm"): _NOTHING,
    (MICROSOFT, "SkipGroupNorm"): _NOTHING,
    (MICROSOFT, "NhwcConv"): _NOTHING,
}
# No provider of onnxruntime has a kernel; the function body computes E[x²] − E[x]².
_EXPANDED = ("", "GroupNormalization")
_RANKS = {
    (MICROSOFT, "SkipLayerNormalization"): (2, 3),
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): (2, 3),
}


class Execution(StrEnum):
    """What computed an operator."""

    NATIVE = "native"
    EXPANDED = "expanded"
    EMULATED = "emulated"


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where verification runs.

    Args:
        providers: of every session, the first preferred.
        target_ep: the provider that the target's models run on, "" if the target names none.
        target_ep_ran: whether that is where the sessions ran.
    """

    providers: tuple[str, ...] = (CPU,)
    target_ep: str = ""
    target_ep_ran: bool = False

    @property
    def only_cpu(self) -> bool:
        """Whether kernels of the CPU provider are all there is."""
        return self.providers[0] == CPU

    def execution(self, node: NodeProto, elem: int | None, rank: int | None) -> Execution:
        """What computes `node`, whose first input has this element type and rank (None where unknown)."""
        where = key(node)
        if where == _EXPANDED:
            return Execution.EXPANDED if self.target_ep_ran else Execution.EMULATED
        if where not in _KERNELS or not self.only_cpu:
            return Execution.NATIVE
        kernels = _KERNELS[where]
        lacking = not kernels or (elem is not None and elem not in kernels)
        misfit = rank is not None and rank not in _RANKS.get(where, (rank,))
        return Execution.EMULATED if lacking or misfit else Execution.NATIVE

    def concerns(self, node: NodeProto) -> bool:
        """Whether `node` may be anything but native; a quick question before types are inferred."""
        return key(node) == _EXPANDED or (self.only_cpu and key(node) in _KERNELS)


def operator_name(node: NodeProto) -> str:
    """What a report calls the operator of `node`: with its domain, unless that is the standard one."""
    domain, kind = key(node)
    return f"{domain}.{kind}" if domain else kind


def weakest(found: Iterable[Execution]) -> Execution:
    """The one that says least about kernels; native if there is none."""
    return max(found, key=list(Execution).index, default=Execution.NATIVE)


def gravest(*counts: Mapping[str, int]) -> dict[str, int]:
    """The larger count of each operator, in the order of names: both sides of a comparison hold the same norms."""
    merged: Counter[str] = Counter()
    for one in counts:
        merged |= Counter(one)
    return dict(sorted(merged.items()))


def counted(ops: Mapping[str, int]) -> str:
    """Operators with their counts, in one line."""
    return ", ".join(f"{name} ×{count}" for name, count in sorted(ops.items()))


def emulation_reason(ops: Mapping[str, int]) -> str:
    """Why a verdict that rests on emulated `ops` is none where native kernels are required."""
    return f"emulated here, and native kernels are required: {counted(ops)}"
