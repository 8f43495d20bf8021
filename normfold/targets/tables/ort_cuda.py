"""onnxruntime with its CUDA provider: single kernels; facts from the source of 1.30, to be confirmed on a card."""

from __future__ import annotations

from normfold.model.dtypes import DOUBLE
from normfold.targets.facts import (
    EVERY_FLOAT,
    HALF_AND_SINGLE,
    ONE_PASS,
    SUMS_OF_SKIP,
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
_NEWEST = 21
_LEFT = frozenset((DOUBLE,))
_DOUBLE = "its float64 takes float32 statistics, so it is not used for float64"
_GROUP_NOTE = "rank 4, channels last, float32 parameters, C/G even and at most 512; float32 sums by atomics"
_GROUP_QUESTION = (
    "com.microsoft.GroupNorm: layouts, C/G and parameter types that the kernel takes, and NaN at a large mean"
)

_SKIP_GROUP = Prefer(Spelling.SKIP_GROUP, "one kernel for the addition, the norm and SiLU")
_CONTRIB = Prefer(Spelling.CONTRIB_GROUP, "one kernel for the norm and SiLU, where its Transposes cancel")
_IDIOM = Prefer(Spelling.IDIOM, "four kernels, no Transposes")
_ROWS = Prefer(Spelling.GROUP_LAYER, "InstanceNormalization has no kernel beyond opset 21, LayerNormalization has")
_INSTANCE = Prefer(Spelling.INSTANCE, "one kernel")
_LAYOUT = Declined(
    "Transpose, one operator, Transpose",
    "layout",
    "two Transposes and the operator move as much data as the elementary operators do",
)

TABLE = Table(
    Target.ORT_CUDA,
    "onnxruntime, CUDA provider",
    "onnxruntime 1.30, source",
    kernels=(
        Support(
            "LayerNormalization",
            UP_TO_SINGLE,
            _READ,
            f"scale and bias of exactly the normalised shape; {_DOUBLE}",
            "LayerNormalization: scales of shape (S, H), (1, S, H) and (H) alike",
            left=_LEFT,
        ),
        Support("RMSNormalization", UP_TO_SINGLE, _READ, f"opset 23; {_DOUBLE}", left=_LEFT),
        Support(
            "SimplifiedLayerNormalization",
            UP_TO_SINGLE,
            _READ,
            f"a float16 x may have a float32 scale, the result is float32 then; {_DOUBLE}",
            "SimplifiedLayerNormalization with a float32 scale beside a float16 x",
            left=_LEFT,
            mixed=True,
        ),
        Support(
            "SkipLayerNormalization",
            UP_TO_SINGLE,
            _READ,
            "last dimension, parameters [H]; float16 sums up to about 1.24",
            "Skip operators: float16 accumulates in float32",
            domain=MICROSOFT,
            ranks=(2, 3),
            imprecise=ONE_PASS,
        ),
        Support(
            "SkipSimplifiedLayerNormalization",
            UP_TO_SINGLE,
            _READ,
            "last dimension, scale [H]; float16 sums up to about 1.24",
            "Skip operators: float16 accumulates in float32",
            domain=MICROSOFT,
            ranks=(2, 3),
            imprecise=SUMS_OF_SKIP,
        ),
        Support(
            "InstanceNormalization",
            HALF_AND_SINGLE,
            _READ,
            "registered for version 6 alone: from opset 22 on it runs on the CPU",
            "InstanceNormalization: the placement at opset 22, and cuDNN's least epsilon",
            ranks=(3, 99),
            newest=_NEWEST,
        ),
        Support(
            "GroupNorm",
            HALF_AND_SINGLE,
            _READ,
            _GROUP_NOTE,
            _GROUP_QUESTION,
            domain=MICROSOFT,
            ranks=(4, 4),
            imprecise=ONE_PASS,
            wide_parameters=True,
            even_groups=True,
            largest_group=512,
        ),
        Support(
            "SkipGroupNorm",
            HALF_AND_SINGLE,
            _READ,
            f"{_GROUP_NOTE}; adds [N, H, W, C], [N, 1, 1, C] or [N, C]",
            _GROUP_QUESTION,
            domain=MICROSOFT,
            ranks=(4, 4),
            imprecise=ONE_PASS,
            wide_parameters=True,
            even_groups=True,
            largest_group=512,
        ),
        Support("GroupNormalization", frozenset(), _READ, "inlined as elementary operators that compute E[x²] - μ²"),
        *plain_kernels(EVERY_FLOAT, _READ),
    ),
    rows={
        Form.LAYER: (
            Prefer(Spelling.SKIP_LAYER, "one kernel for the addition and the norm"),
            Prefer(Spelling.LAYER, "one kernel"),
        ),
        Form.RMS: (
            Prefer(Spelling.SKIP_SIMPLIFIED, "one kernel for the addition and the norm"),
            Prefer(Spelling.SIMPLIFIED, "one kernel, and no Cast where the scale is float32"),
            Prefer(Spelling.RMS, "one kernel of the standard, and the model is at opset 23 already", from_opset=23),
        ),
        Form.WHOLE: (_SKIP_GROUP, _CONTRIB, _IDIOM, _ROWS),
        Form.GROUP: (_SKIP_GROUP, _CONTRIB, _IDIOM, _ROWS),
        Form.GROUP_RMS: (Prefer(Spelling.GROUP_LAYER, "one kernel between two Reshapes"),),
        Form.GROUP_LAST: (_SKIP_GROUP, _CONTRIB, _LAYOUT),
        Form.INSTANCE: (_INSTANCE, _ROWS),
        Form.INSTANCE_LAST: (_LAYOUT,),
        Form.OTHER: (_LAYOUT,),
        Form.OTHER_RMS: (_LAYOUT,),
    },
)
