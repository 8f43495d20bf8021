"""Any runtime: operators of the standard, opset 17 to 21, in the spelling that every importer reads."""

from __future__ import annotations

from normfold.model.dtypes import DOUBLE
from normfold.targets.facts import (
    EVERY_FLOAT,
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
from normfold.targets.names import Target

_LEFT = frozenset((DOUBLE,))
_IDIOM = Prefer(
    Spelling.IDIOM, "the form that exporters write and runtimes recognise; GroupNormalization has few kernels"
)
_LAYOUT = Declined(
    "Transpose, one operator, Transpose",
    "layout",
    "the dimensions that are normalised are not where the operator wants them, and not every runtime moves data cheaply",
)
_RMS_STANDARD = Prefer(Spelling.RMS, "one operator, and the model is at opset 23 already", from_opset=23)

TABLE = Table(
    Target.PORTABLE,
    "any runtime: standard operators only",
    "ONNX opset 17 to 21",
    kernels=(
        Support(
            "LayerNormalization",
            UP_TO_SINGLE,
            Evidence.STANDARD,
            "all three inputs are written; stash_type 1 means float32 statistics, so not for float64",
            left=_LEFT,
            needs_bias=True,
        ),
        Support(
            "RMSNormalization",
            UP_TO_SINGLE,
            Evidence.STANDARD,
            "opset 23; float32 statistics, so not for float64",
            left=_LEFT,
        ),
        Support(
            "InstanceNormalization",
            UP_TO_SINGLE,
            Evidence.STANDARD,
            "bfloat16 from opset 22; the standard has float64, and onnxruntime no kernel for it",
        ),
        Support(
            "GroupNormalization",
            frozenset(),
            Evidence.STANDARD,
            "most runtimes inline it as E[x²] - μ², and version 18 and 21 differ in their parameters",
        ),
        Support("SimplifiedLayerNormalization", frozenset(), Evidence.STANDARD, "no operator of the standard"),
        *plain_kernels(EVERY_FLOAT, Evidence.STANDARD),
    ),
    only_standard=True,
    rows={
        Form.LAYER: (Prefer(Spelling.LAYER, "one operator of the standard since opset 17"),),
        Form.RMS: (_RMS_STANDARD,),
        Form.WHOLE: (_IDIOM, Prefer(Spelling.LAYER, "one operator, with parameters of the size of a sample")),
        Form.GROUP: (_IDIOM,),
        Form.GROUP_LAST: (_LAYOUT,),
        Form.INSTANCE: (Prefer(Spelling.INSTANCE, "one operator of the standard"),),
        Form.INSTANCE_LAST: (_LAYOUT,),
        Form.OTHER: (_LAYOUT,),
        Form.OTHER_RMS: (_LAYOUT,),
    },
)
