"""TensorRT: operators of the standard that its parser maps to one layer; no contrib operators."""

from __future__ import annotations

from normfold.targets.facts import (
    UP_TO_SINGLE,
    Declined,
    Evidence,
    Form,
    Prefer,
    Spelling,
    Support,
    Table,
    plain_kernels,
)
from normfold.targets.lowering import MICROSOFT
from normfold.targets.names import Target

_READ = Evidence.READ
_LAYER = Prefer(Spelling.LAYER, "one layer, with float32 statistics in float16 engines")
_IDIOM = Prefer(Spelling.IDIOM, "for TensorRT before 10.9, or a model that has to stay below opset 21")
_MOVED = "Transposes are cheap here: about 50 % faster than the elementary operators (NVIDIA/TensorRT-Incubator#650)"
_LAYOUT = Declined(
    "Transpose, one operator, Transpose", "layout", "whether the Transposes cost less than they save is not known here"
)
_ONE_GROUP = Declined(Spelling.GROUP.value, "groups", "1 group is computed as an InstanceNorm (NVIDIA/TensorRT#4756)")
_RMS = Prefer(Spelling.RMS, "one layer from TensorRT 10.15 on, and the model is at opset 23 already", from_opset=23)

TABLE = Table(
    Target.TENSORRT,
    "TensorRT and its ONNX parser",
    "TensorRT 10, parser source and issues",
    kernels=(
        Support(
            "LayerNormalization", UP_TO_SINGLE, _READ, "output Y only; all three inputs are written", needs_bias=True
        ),
        Support(
            "RMSNormalization",
            UP_TO_SINGLE,
            _READ,
            "TensorRT 10.15",
            "RMSNormalization from TensorRT 10.15 on",
        ),
        Support(
            "GroupNormalization",
            UP_TO_SINGLE,
            Evidence.REPORTED,
            "TensorRT 10.9 for opset 21; rank 4, more than one group",
            "GroupNormalization: one group, rank 3 and rank 5",
            ranks=(4, 4),
        ),
        Support("InstanceNormalization", UP_TO_SINGLE, _READ, "native", ranks=(3, 99)),
        Support("SimplifiedLayerNormalization", frozenset(), _READ, "no operator of the standard"),
        Support("GroupNorm", frozenset(), Evidence.REPORTED, "microsoft/onnxruntime#16234", domain=MICROSOFT),
        *plain_kernels(UP_TO_SINGLE, _READ),
    ),
    only_standard=True,
    rows={
        Form.LAYER: (_LAYER,),
        Form.RMS: (_RMS,),
        Form.WHOLE: (_ONE_GROUP, _LAYER, _IDIOM),
        Form.GROUP: (Prefer(Spelling.GROUP, "one layer from TensorRT 10.9 on"), _IDIOM),
        Form.GROUP_LAST: (_LAYOUT,),
        Form.INSTANCE: (Prefer(Spelling.INSTANCE, "one layer"),),
        Form.INSTANCE_LAST: (_LAYOUT,),
        Form.OTHER: (Prefer(Spelling.LAYER, _MOVED, transposed=True),),
        Form.OTHER_RMS: (Prefer(Spelling.RMS, _MOVED, from_opset=23, transposed=True),),
    },
)
