"""What a target table is made of: kernels with their limits and their evidence, and which spelling each norm prefers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from normfold.model.dtypes import BFLOAT16, DOUBLE, FLOAT, FLOAT16
from normfold.targets.names import Target

HALF_AND_SINGLE = frozenset((FLOAT16, FLOAT))
UP_TO_SINGLE = frozenset((FLOAT16, BFLOAT16, FLOAT))
HALF_TO_DOUBLE = frozenset((FLOAT16, FLOAT, DOUBLE))
EVERY_FLOAT = frozenset((FLOAT16, BFLOAT16, FLOAT, DOUBLE))


class Evidence(StrEnum):
    """How a fact about a target is known."""

    STANDARD = "defined by the standard"
    MEASURED = "measured"
    READ = "read in source"
    REPORTED = "reported"

    @property
    def is_confirmed(self) -> bool:
        """Whether the fact needs no run on the target's hardware any more."""
        return self in (Evidence.STANDARD, Evidence.MEASURED)


class Form(StrEnum):
    """What a target distinguishes: axes, groups and where the channels are, not how the norm was spelled."""

    LAYER = "LayerNorm"
    RMS = "RMSNorm"
    WHOLE = "norm of the whole sample, affine per channel"
    GROUP = "GroupNorm"
    GROUP_RMS = "RMSNorm of channel groups"
    GROUP_LAST = "GroupNorm, channels last"
    INSTANCE = "InstanceNorm"
    INSTANCE_LAST = "InstanceNorm, channels last"
    OTHER = "LayerNorm over other axes (channels first)"
    OTHER_RMS = "RMSNorm over other axes"
    OTHER_GROUP = "groups over other axes"


class Spelling(StrEnum):
    """The ways to write a norm; the values are what people call them."""

    LAYER = "LayerNormalization"
    SIMPLIFIED = "SimplifiedLayerNormalization"
    RMS = "RMSNormalization"
    SKIP_LAYER = "com.microsoft.SkipLayerNormalization"
    SKIP_SIMPLIFIED = "com.microsoft.SkipSimplifiedLayerNormalization"
    INSTANCE = "InstanceNormalization"
    IDIOM = "InstanceNormalization idiom"
    IDIOM_BATCH = "InstanceNormalization idiom, affine as BatchNormalization"
    GROUP_LAYER = "LayerNormalization of groups"
    GROUP_WIDE = "LayerNormalization of groups, scale (1, G, K)"
    GROUP = "GroupNormalization"
    CONTRIB_GROUP = "com.microsoft.GroupNorm"
    SKIP_GROUP = "com.microsoft.SkipGroupNorm"
    ELEMENTARY = "elementary operators"
    ELEMENTARY_RECIPROCAL = "elementary operators, Reciprocal of Sqrt"


class Threads(StrEnum):
    """For which number of threads a preference holds."""

    ANY = "any"
    ONE = "one"
    MANY = "more than one"


ONE_PASS = "it computes the variance as E[x²] - μ²"
SUMS_OF_SKIP = "how it adds up depends on the version"

# The single operators that were made for a form.
EXPECTED: Mapping[Form, tuple[tuple[str, str], ...]] = {
    Form.RMS: (("RMSNormalization", ""), ("SimplifiedLayerNormalization", "")),
    **dict.fromkeys((Form.GROUP, Form.GROUP_LAST), (("GroupNormalization", ""), ("GroupNorm", "com.microsoft"))),
}


ANY_RANK = (0, 99)


@dataclass(frozen=True, slots=True)
class Support:
    """A kernel of a target, and its limits.

    Args:
        operator: the op type; `domain` its domain, "" for the standard.
        types: ONNX element types of the first input; empty where there is no kernel at all.
        left: types that the kernel takes with fewer digits than they have: it stays where it stands and is never written.
        ranks: least and greatest rank of the first input.
        newest: the last opset for which there is a kernel, None if there is no limit.
        imprecise: what makes it unfit for a precision bound: a variance as E[x²] - μ² loses digits where the mean dwarfs the
            deviation; "" if nothing.
        mixed: whether scale may be float32 beside a float16 x; the result is float32 then.
        needs_bias: whether the operator wants its bias written although the standard makes it optional.
        channels_first: whether it takes channels at dimension 1 (contrib GroupNorm).
        wide_parameters: whether scale and bias must be float32 whatever x is.
        even_groups: whether the number of channels in a group must be even.
        largest_group: the greatest number of channels in a group.
        evidence: how all this is known.
        note: the constraint, for people.
        question: what a run on the target's hardware has to confirm; "" if nothing.
    """

    operator: str
    types: frozenset[int]
    evidence: Evidence
    note: str = ""
    question: str = ""
    domain: str = ""
    left: frozenset[int] = frozenset()
    ranks: tuple[int, int] = ANY_RANK
    newest: int | None = None
    imprecise: str = ""
    mixed: bool = False
    needs_bias: bool = False
    channels_first: bool = False
    wide_parameters: bool = False
    even_groups: bool = False
    largest_group: int | None = None


@dataclass(frozen=True, slots=True)
class Prefer:
    """One entry of a row: a spelling that a form of norm may become.

    Args:
        spelling: which one.
        reason: why, one line.
        threads: the number of threads that it is for.
        precise: whether it is for models with a precision bound only.
        types: the element types that it is for; None for all.
        widen: whether Casts to float32 around it are worth it where its own type has no kernel.
        from_opset: taken only where the model imports this opset already.
        transposed: whether it stands between two Transposes that bring the norm into the form that it takes.
    """

    spelling: Spelling
    reason: str
    threads: Threads = Threads.ANY
    precise: bool = False
    types: frozenset[int] | None = None
    widen: bool = True
    from_opset: int = 0
    transposed: bool = False

    @property
    def operator(self) -> str:
        """What people call the whole of it."""
        return f"Transpose, {self.spelling.value}, Transpose" if self.transposed else self.spelling.value


@dataclass(frozen=True, slots=True)
class Declined:
    """One entry of a row: a spelling that the target could take and that is not worth it.

    Args:
        operator: what people call it.
        key: one of `TARGET_REASONS`.
        message: why not, one line.
    """

    operator: str
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Table:
    """A deployment target.

    Args:
        target: its name.
        title: what it is, one line.
        kernels: every operator that may be written for it, and those that people expect and that it does not have.
        rows: per form what to try, best first; a form without a row is written in elementary operators at most.
        elementary: how it likes a norm in elementary operators.
        versions: which versions the facts are about.
        only_standard: whether it executes nothing outside of the standard domain but what is listed.
    """

    target: Target
    title: str
    versions: str
    kernels: tuple[Support, ...]
    rows: Mapping[Form, tuple[Prefer | Declined, ...]]
    elementary: Spelling = Spelling.ELEMENTARY
    only_standard: bool = False

    def kernel(self, operator: str, domain: str = "") -> Support | None:
        """The entry of an operator, None if the table has none."""
        return next((k for k in self.kernels if (k.operator, k.domain) == (operator, domain)), None)

    def lacks(self, operator: str, domain: str = "") -> bool:
        """Whether it is known that there is no kernel of an operator, whatever the type."""
        found = self.kernel(operator, domain)
        return not found.types if found is not None else bool(domain) and self.only_standard


def plain_kernels(types: frozenset[int], evidence: Evidence, newest: int | None = None) -> tuple[Support, ...]:
    """The operators around a norm, which every target has: arithmetic, views, Casts."""
    arithmetic = ("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "ReduceMean")
    views = ("Reshape", "Transpose", "Cast", "Shape")
    return (
        *(Support(name, types, evidence, newest=newest) for name in arithmetic),
        *(Support(name, EVERY_FLOAT, evidence, newest=newest) for name in views),
    )
