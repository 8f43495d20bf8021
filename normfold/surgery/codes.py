"""The catalogue of rule codes. Codes are stable: one may be retired, never reused."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from normfold.affine.reasons import REASONS
from normfold.norm.reasons import REASONS as NORM_REASONS
from normfold.targets.reasons import TARGET_REASONS


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its code, a verb phrase, and its page."""

    code: str
    name: str
    page: str
    keys: tuple[str, ...]


_MERGE_ONLY = ("geometry",)
_OPSET = ("opset",)  # no fold needs another opset; inlining and norms do
_AFFINE = tuple(key for key in REASONS if key not in (*_MERGE_ONLY, *_OPSET))
_MERGE = (
    "dynamic-params", "overridable", "ill-formed", "unknown-attribute", "not-per-channel", "shape-unknown", "shared",
    "graph-output", "captured", "quantised", "non-finite", "dtype-range", "external-data", "cost", "user-keep",
    "verification", "shift-blocked", *_MERGE_ONLY,
)  # fmt: skip

RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        Rule(
            "NF101",
            "fold-batch-norm",
            "An inference BatchNormalization is y = s·x + t with s = gamma / sqrt(var + epsilon) and t = beta - mean·s, one "
            "value per channel. It is folded into the weights of the operator before it, past operators that let it through.",
            tuple(key for key in _AFFINE if key != "bias-in-place"),
        ),
        Rule(
            "NF102",
            "fold-affine",
            "A Mul, Add, Sub, Div, Neg or Sum with constants, or a chain of them, is y = s·x + t. It is folded like a "
            "BatchNormalization; an s of 1 with a t of 0 is removed.",
            _AFFINE,  # all of them: the operator that would take it may be a BatchNormalization
        ),
        Rule(
            "NF103",
            "merge-branches",
            "Parallel Conv branches on one input that are added (RepVGG, MobileOne) are one Conv: kernels add at their "
            "offset in the smallest kernel that holds them all, the input itself is a kernel with one tap, an AveragePool one "
            "with equal taps, and a BatchNormalization on the input goes with it. MatMul and Gemm on one input add likewise.",
            (*_MERGE, "branch"),
        ),
        Rule(
            "NF104",
            "merge-rows",
            "Two linear operators in a row are one, W = W2·W1 and b = W2·b1 + b2: Conv before or behind a Conv 1x1 without "
            "padding, MatMul or Gemm behind MatMul or Gemm. Parameters and multiplications must not grow, unless --aggressive "
            "asks for it; then the decision says what grew.",
            _MERGE,
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
            "NF202",
            "spell-norm",
            "A LayerNorm, RMSNorm, GroupNorm or InstanceNorm is recognised by what its nodes compute, however they spell it, "
            "confirmed by numbers in float64, and written as the best operator of the deployment target; the opset is raised "
            "as far as that needs. Operators of onnxruntime that add, normalise and activate in one become such operators "
            "where the target has no kernel for them.",
            (*NORM_REASONS, *TARGET_REASONS, "statistics", "target-spelling", "opset", "user-keep", "verification"),
        ),
        Rule(
            "NF301",
            "freeze-initializers",
            "Initializers that are also graph inputs could be overridden by a caller, so no runtime may fold them. Where an "
            "exporter listed all weights, they are frozen: taken out of the inputs. --initializers keep leaves them.",
            ("kept",),
        ),
        Rule(
            "NF302",
            "inline-function",
            "A model-local function gets weights as inputs, so they are constants only where it is called. A call of which a "
            "node folds, or is in the way of a fold, or is part of a norm that the body alone is not, is replaced by the body "
            "of the function; others stay calls.",
            ("opset", "inline-size", "graph-attribute", "ill-formed", "user-keep"),
        ),
    )
}

KEY_MEANING: dict[str, str] = {
    **REASONS,
    **NORM_REASONS,
    **TARGET_REASONS,
    "statistics": "somebody else needs its mean or variance, and an operator would take them a second time",
    "target-spelling": "it is spelled as the target does it best",
    "inline-size": "the model would grow or nest too much",
    "graph-attribute": "the call passes a graph as an attribute, which reads values of the caller",
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


def catalogue() -> str:
    """docs/codes.md: every code with its meaning. `python -m normfold.surgery.codes` prints it."""
    lines = [
        "# Codes",
        "",
        "Generated by `python -m normfold.surgery.codes > docs/codes.md`. `normfold rule CODE` prints one entry.",
        "",
        "A decision carries the code of its rule (`NF101`) where the rule was applied, and `RULE.key` where it was not.",
        "Codes are stable: one may be retired, never reused.",
    ]
    for rule in RULES.values():
        lines += ["", f"## {rule.code} {rule.name}", "", rule.page, "", "| code | why it stays |", "|---|---|"]
        lines += [f"| `{rule.code}.{key}` | {KEY_MEANING[key]} |" for key in rule.keys]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(catalogue())
