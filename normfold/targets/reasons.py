"""Why a norm does not become an operator on a target: the stable keys, what each means, and the refusal that carries one."""

from __future__ import annotations

from normfold.refusal import Refusal

TARGET_REASONS: dict[str, str] = {
    "no-kernel": "the target has no kernel for an operator that the spelling needs",
    "element-type": "the target has no kernel for the element type, nor for a wider one",
    "rank": "the operator does not take a tensor of this rank",
    "axes": "the operator cannot take statistics over these dimensions",
    "layout": "it would need Transposes, which move as much data as the operator saves on this target",
    "static-shape": "an extent that the operator's constants need is not known",
    "empty": "a dimension has no elements, so there is nothing to normalise",
    "groups": "the kernel does not take this number of groups, or of channels in a group",
    "opset-cap": "the model imports an opset for which the target has no kernel of this operator",
    "opset-low": "the operator is worth it only where the model imports a newer opset already",
    "precision": "the statistics would be less precise than what is asked for",
    "parameters": "scale or bias vary along dimensions, or come in a form, that the operator has no parameter for",
    "parameter-range": "scale or bias are not finite in the element type",
    "constant-size": "the operator needs a constant that the model does not have, of more than 16 million elements",
    "epsilon": "epsilon is zero, not finite, or in a float64 norm another number, as the float32 that the operator stores",
    "surroundings": "the operator needs an addition in front of the norm, or a form of it, that is not there",
    "left-to-target": "the target recognises the usual spelling itself and does better with it",
}


class Cannot(Refusal):
    """A spelling declines a norm: `message` is the constraint that is not met. `key` is one of `TARGET_REASONS`."""

    reasons = TARGET_REASONS
