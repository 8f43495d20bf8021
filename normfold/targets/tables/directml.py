"""onnxruntime with its DirectML provider: facts from the source of 1.30, to be confirmed on hardware."""

from __future__ import annotations

from normfold.targets.facts import (
    HALF_AND_SINGLE,
    ONE_PASS,
    SUMS_OF_SKIP,
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
_CONTRIB = Prefer(Spelling.CONTRIB_GROUP, "one kernel for the norm and SiLU, in either layout")
_IDIOM = Prefer(Spelling.IDIOM, "four kernels, any rank")
_ROWS = Prefer(Spelling.GROUP_LAYER, "whether InstanceNormalization has a kernel beyond opset 21 is not known")
_SKIP = "one kernel for the addition and the norm"
_LAYOUT = Declined(
    "Transpose, one operator, Transpose", "layout", "whether the Transposes cost less than they save is not known here"
)

TABLE = Table(
    Target.DIRECTML,
    "onnxruntime, DirectML provider",
    "onnxruntime 1.30, source",
    kernels=(
        Support("LayerNormalization", HALF_AND_SINGLE, _READ),
        Support("SimplifiedLayerNormalization", HALF_AND_SINGLE, _READ, "fails onnx.checker"),
        Support("RMSNormalization", frozenset(), _READ, "inlined as elementary operators"),
        Support(
            "SkipLayerNormalization",
            HALF_AND_SINGLE,
            _READ,
            "last dimension, parameters [H]",
            domain=MICROSOFT,
            ranks=(2, 3),
            imprecise=ONE_PASS,
        ),
        Support(
            "SkipSimplifiedLayerNormalization",
            HALF_AND_SINGLE,
            _READ,
            "last dimension, scale [H]",
            domain=MICROSOFT,
            ranks=(2, 3),
            imprecise=SUMS_OF_SKIP,
        ),
        Support(
            "InstanceNormalization",
            HALF_AND_SINGLE,
            _READ,
            "known up to opset 21",
            "InstanceNormalization-22",
            ranks=(3, 99),
            newest=21,
        ),
        Support(
            "GroupNorm",
            HALF_AND_SINGLE,
            _READ,
            "rank 4, channels first or last, parameters of either type",
            "com.microsoft.GroupNorm with the channels first",
            domain=MICROSOFT,
            ranks=(4, 4),
            channels_first=True,
            wide_parameters=True,
        ),
        Support("SkipGroupNorm", frozenset(), _READ, domain=MICROSOFT),
        Support(
            "GroupNormalization",
            frozenset(),
            Evidence.REPORTED,
            "registered under a wrong name (microsoft/onnxruntime#22830), so it is inlined",
        ),
        *plain_kernels(HALF_AND_SINGLE, _READ),
    ),
    rows={
        Form.LAYER: (Prefer(Spelling.SKIP_LAYER, _SKIP), Prefer(Spelling.LAYER, "one kernel")),
        Form.RMS: (Prefer(Spelling.SKIP_SIMPLIFIED, _SKIP), Prefer(Spelling.SIMPLIFIED, "one kernel")),
        Form.WHOLE: (_CONTRIB, _IDIOM, _ROWS),
        Form.GROUP: (_CONTRIB, _IDIOM, _ROWS),
        Form.GROUP_RMS: (Prefer(Spelling.GROUP_LAYER, "one kernel between two Reshapes"),),
        Form.GROUP_LAST: (_CONTRIB, _LAYOUT),
        Form.INSTANCE: (Prefer(Spelling.INSTANCE, "one kernel"), _ROWS),
        Form.INSTANCE_LAST: (_LAYOUT,),
        Form.OTHER: (_LAYOUT,),
        Form.OTHER_RMS: (_LAYOUT,),
    },
)
