"""onnxruntime on the CPU, measured with 1.31.1; the choice for GroupNorm depends on the number of threads."""

from __future__ import annotations

from normfold.model.dtypes import BFLOAT16, DOUBLE, FLOAT, FLOAT16
from normfold.targets.facts import (
    EVERY_FLOAT,
    HALF_TO_DOUBLE,
    ONE_PASS,
    SUMS_OF_SKIP,
    UP_TO_SINGLE,
    Evidence,
    Form,
    Prefer,
    Spelling,
    Support,
    Table,
    Threads,
    plain_kernels,
)
from normfold.targets.lowering import MICROSOFT
from normfold.targets.names import Target

_SINGLE = frozenset((FLOAT,))
_NOT_SINGLE = frozenset((FLOAT16, BFLOAT16, DOUBLE))
_ARITHMETIC = frozenset((FLOAT, DOUBLE))  # in float16 onnxruntime puts Casts around each of them
_MEASURED = Evidence.MEASURED

_LAYER = Prefer(Spelling.LAYER, "one kernel, several threads")
_WIDE = "no InstanceNormalization kernel in this type; the affine inside, because Mul and Add would be cast each"
_GROUP = (
    Prefer(
        Spelling.GROUP_WIDE, "the most precise spelling: 2e-7 where the others lose 2e-4 at mean 3000", precise=True
    ),
    Prefer(
        Spelling.IDIOM_BATCH,
        "one thread: 1.3 to 1.5 times faster than with Mul and Add, 2.6 to 3.5 times than GroupNormalization",
        threads=Threads.ONE,
        types=_SINGLE,
    ),
    Prefer(
        Spelling.GROUP_LAYER,
        "several threads: LayerNormalization shares the groups among them, InstanceNormalization does not",
        threads=Threads.MANY,
        types=_SINGLE,
    ),
    Prefer(Spelling.GROUP_WIDE, _WIDE, types=_NOT_SINGLE, widen=False),
    Prefer(
        Spelling.IDIOM_BATCH,
        "one thread, in float32; the size of the groups is not known, which LayerNormalization would need",
        threads=Threads.ONE,
        types=_NOT_SINGLE,
    ),
    Prefer(Spelling.IDIOM, "the size of the groups is not known, which LayerNormalization would need"),
)
# Ones of the size of a sample and an affine behind them are no smaller than a scale and a bias of that size.
_WHOLE = Prefer(Spelling.LAYER, "one kernel, several threads; the groups are whole samples")
_INSTANCE = (
    Prefer(Spelling.INSTANCE, "one kernel", types=_SINGLE),
    Prefer(Spelling.GROUP_WIDE, _WIDE, types=_NOT_SINGLE, widen=False),
    Prefer(Spelling.INSTANCE, "one kernel, in float32", types=_NOT_SINGLE),
)
# No Skip operators: an Add and the norm take 0.35 to 0.5 of the time of SkipLayerNormalization, and 0.7 to 1.0 of that of
# SkipSimplifiedLayerNormalization; its bias costs less in the Gemm in front (float32 and float16, one thread and two).
_MOVED = "one thread: 1.6 to 3.7 times faster than the elementary operators, Transposes included"


def _transposed(entries: tuple[Prefer, ...]) -> tuple[Prefer, ...]:
    return tuple(
        Prefer(e.spelling, _MOVED, e.threads, e.precise, e.types, e.widen, e.from_opset, transposed=True)
        for e in entries
    )


_RMS = (
    Prefer(
        Spelling.RMS, "one kernel of the standard, and the model is at opset 23 already", widen=False, from_opset=23
    ),
    Prefer(Spelling.SIMPLIFIED, "one kernel, several threads"),
)

TABLE = Table(
    Target.ORT_CPU,
    "onnxruntime, CPU",
    "onnxruntime 1.31.1",
    kernels=(
        Support("LayerNormalization", EVERY_FLOAT, _MEASURED, "bfloat16 from 1.31; several threads"),
        Support("RMSNormalization", HALF_TO_DOUBLE, _MEASURED, "opset 23"),
        Support("SimplifiedLayerNormalization", EVERY_FLOAT, _MEASURED, "x and scale of one type; fails onnx.checker"),
        Support(
            "SkipLayerNormalization",
            UP_TO_SINGLE,
            _MEASURED,
            "last dimension, parameters [H]; bfloat16 from 1.31",
            domain=MICROSOFT,
            ranks=(2, 3),
            imprecise=ONE_PASS,
        ),
        Support(
            "SkipSimplifiedLayerNormalization",
            UP_TO_SINGLE,
            _MEASURED,
            "last dimension, scale [H]; bfloat16 from 1.31",
            domain=MICROSOFT,
            ranks=(2, 3),
            imprecise=SUMS_OF_SKIP,
        ),
        Support("InstanceNormalization", _SINGLE, _MEASURED, "one thread only", ranks=(3, 99)),
        Support("BatchNormalization", _ARITHMETIC, _MEASURED, "the affine of the idiom"),
        Support("GroupNormalization", frozenset(), _MEASURED, "inlined as 29 nodes that compute E[x²] - μ²"),
        Support("GroupNorm", frozenset(), _MEASURED, "the session fails", domain=MICROSOFT),
        Support("SkipGroupNorm", frozenset(), _MEASURED, "the session fails", domain=MICROSOFT),
        *plain_kernels(_ARITHMETIC, _MEASURED),
    ),
    rows={
        Form.LAYER: (_LAYER,),
        Form.RMS: _RMS,
        Form.WHOLE: (*_GROUP[:2], _WHOLE, *_GROUP[3:]),
        Form.GROUP: _GROUP,
        Form.GROUP_RMS: (Prefer(Spelling.GROUP_LAYER, "one kernel, several threads"),),
        Form.GROUP_LAST: _transposed(_GROUP),
        Form.INSTANCE: _INSTANCE,
        Form.INSTANCE_LAST: _transposed(_INSTANCE),
        Form.OTHER: _transposed((_LAYER,)),
        Form.OTHER_RMS: _transposed(_RMS),
    },
)
