"""Every step of the standard domain, from opset 7 on, that does more than widen what is allowed.

An entry stands under the operator and the version that it leads to. What is not here must be `schemas.is_compatible`, and
is then nothing to do; but the comparison does not see a change of meaning that only the text of a schema tells. Those
texts have been read for all steps up to `REVIEWED`, and a later step that is no entry is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from normfold.surgery.versions import norms, operands, resize, softmax, values, windows
from normfold.surgery.versions.form import Form

# Operators changed too much before it, in broadcasting above all.
OLDEST = 7
REVIEWED = 28

StepRule = Callable[[Form], None]

# Operators that a runtime has under the standard's name for whatever opset. Others were withdrawn at some version.
OF_A_RUNTIME = frozenset({"SimplifiedLayerNormalization"})

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
)  # fmt: skip

TABLE: Mapping[tuple[str, int], StepRule] = {
    **{(op_type, 18): operands.listed("axes") for op_type in _REDUCTIONS},
    ("ReduceSum", 13): operands.listed("axes"),
    ("Squeeze", 13): operands.listed("axes"),
    ("Unsqueeze", 13): operands.listed("axes"),
    ("Slice", 10): operands.listed("starts", "ends", "axes"),
    ("Split", 13): operands.listed("split"),
    ("Split", 18): operands.split,
    ("TopK", 10): operands.top_k,
    ("Pad", 11): operands.pad,
    ("Clip", 11): operands.clip,
    ("Dropout", 10): operands.dropout_mask,
    ("Dropout", 12): operands.dropout,
    ("DFT", 20): operands.dft,
    ("Upsample", 9): operands.upsample,
    ("Upsample", 10): resize.to_resize,
    ("Resize", 11): resize.coordinates,
    ("Resize", 13): resize.optional_inputs,
    **{(op_type, 13): softmax.one_axis for op_type in ("Softmax", "LogSoftmax", "Hardmax")},
    ("BatchNormalization", 9): norms.per_channel,
    ("BatchNormalization", 14): norms.inference_mode,
    ("GroupNormalization", 21): norms.group_channels,
    ("LayerNormalization", 17): norms.standardised,
    ("AveragePool", 22): windows.windows_inside,
    ("MaxPool", 22): windows.windows_inside,
    ("ConvTranspose", 11): windows.transposed_pads,
    ("OneHot", 11): values.one_hot,
    ("Cast", 24): values.cast,
    ("CastLike", 24): values.cast_like,
    ("QuantizeLinear", 19): values.quantize_linear,
    ("GridSample", 20): values.grid_sample,
    ("RoiAlign", 16): values.roi_align,
    ("Scatter", 11): values.scatter,
    ("Scan", 9): values.gone("it scans batches of sequences with lengths, which later versions do not"),
}
