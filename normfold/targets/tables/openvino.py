"""OpenVINO reading ONNX itself: it fuses usual spellings into MVN and RMS, so operators of the standard are enough."""

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
_IDIOM = Prefer(Spelling.IDIOM, "recognised, and the model need not be raised to opset 21")
_LAYOUT = Declined(
    "Transpose, one operator, Transpose",
    "left-to-target",
    "its MVN takes any dimensions, and its own fusion makes one of the elementary operators",
)

TABLE = Table(
    Target.OPENVINO,
    "OpenVINO, ONNX front end",
    "OpenVINO 2025 and 2026, source",
    kernels=(
        Support("LayerNormalization", UP_TO_SINGLE, _READ, "one output; all three inputs are written", needs_bias=True),
        Support("InstanceNormalization", UP_TO_SINGLE, _READ, ranks=(3, 99)),
        Support("GroupNormalization", UP_TO_SINGLE, _READ, "native operation from opset 21 on"),
        Support("RMSNormalization", frozenset(), _READ, "inlined as elementary operators"),
        Support("SimplifiedLayerNormalization", frozenset(), _READ, "2025.2 and later only, and fails onnx.checker"),
        Support("GroupNorm", frozenset(), _READ, "2026 and later only", domain=MICROSOFT),
        Support("SkipGroupNorm", frozenset(), _READ, domain=MICROSOFT),
        Support("SkipLayerNormalization", frozenset(), _READ, "2024.5 and later only", domain=MICROSOFT),
        Support("SkipSimplifiedLayerNormalization", frozenset(), _READ, "2025.0 and later only", domain=MICROSOFT),
        *plain_kernels(UP_TO_SINGLE, _READ),
    ),
    rows={
        Form.LAYER: (Prefer(Spelling.LAYER, "one operation"),),
        Form.RMS: (
            Declined(
                Spelling.SIMPLIFIED.value, "left-to-target", "its own fusion makes one operation of Sqrt and Reciprocal"
            ),
        ),
        Form.WHOLE: (_IDIOM, Prefer(Spelling.LAYER, "one operation")),
        Form.GROUP: (
            Prefer(Spelling.GROUP, "one operation, and the model is at opset 21 already", from_opset=21),
            _IDIOM,
        ),
        Form.GROUP_LAST: (_LAYOUT,),
        Form.INSTANCE: (Prefer(Spelling.INSTANCE, "one operation"),),
        Form.INSTANCE_LAST: (_LAYOUT,),
        Form.OTHER: (_LAYOUT,),
        Form.OTHER_RMS: (_LAYOUT,),
    },
    elementary=Spelling.ELEMENTARY_RECIPROCAL,
)
