"""The catalogue of rule codes. Codes are stable: one may be retired, never reused."""

from __future__ import annotations

from dataclasses import dataclass

from normfold.affine.reasons import REASONS


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its code, a verb phrase, and its page."""

    code: str
    name: str
    page: str
    keys: tuple[str, ...]


_FOLD_KEYS = tuple(
    key
    for key in REASONS
    if key not in ("training-mode", "computed-stats", "spatial", "nonpositive-variance", "bias-in-place")
)

RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        Rule(
            "NF101",
            "fold-batch-norm",
            "An inference BatchNormalization is y = s·x + t with s = gamma / sqrt(var + epsilon) and t = beta - mean·s, one "
            "value per channel. It is folded into the weights of the operator before it, past operators that let it through.",
            tuple(key for key in REASONS if key != "bias-in-place"),
        ),
        Rule(
            "NF102",
            "fold-affine",
            "A Mul, Add, Sub, Div, Neg or Sum with constants, or a chain of them, is y = s·x + t. It is folded like a "
            "BatchNormalization; an s of 1 with a t of 0 is removed.",
            (*_FOLD_KEYS, "bias-in-place"),
        ),
        Rule(
            "NF201",
            "keep-norm",
            "A LayerNormalization, GroupNormalization, InstanceNormalization, RMSNormalization or MeanVarianceNormalization "
            "normalises with statistics of its input, so it cannot be folded. It is listed, and an affine behind it goes into "
            "its scale and bias.",
            ("single-op",),
        ),
        Rule(
            "NF301",
            "freeze-initializers",
            "Initializers that are also graph inputs could be overridden by a caller, so no runtime may fold them. Where an "
            "exporter listed all weights, they are frozen: taken out of the inputs. --initializers keep leaves them.",
            ("kept",),
        ),
    )
}

KEY_MEANING: dict[str, str] = {
    **REASONS,
    "single-op": "it already is one operator",
    "kept": "only some initializers are also inputs, which looks like an intention; --initializers freeze overrules it",
}


def meaning(code: str) -> str | None:
    """The page of a rule code or reason code, None if there is no such code."""
    rule, _, key = code.partition(".")
    if rule not in RULES:
        return None
    if not key:
        return RULES[rule].page
    return KEY_MEANING[key] if key in RULES[rule].keys else None
