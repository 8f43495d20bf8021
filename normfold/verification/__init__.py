"""Verification: is the rewritten model the same function, and how far does the evidence reach?

`verify_regions` compares every rewritten region under a rounding bound (L2); `verify_models` compares structure (L0)
and both whole models (L3) against the model's own sensitivity to rounding. Native code runs in a child process only.
"""

from __future__ import annotations

from .emulation import Emulated, emulate
from .models import verify_models
from .regions import verify_regions
from .repairs import Repair
from .runtime import runtime_info
from .user_inputs import load_user_inputs, parse_shapes
from .verdicts import (
    OutputVerdict,
    Region,
    RegionVerdict,
    Settings,
    Status,
    Verification,
    VerifyOptions,
    worst,
)

__all__ = [
    "Emulated",
    "OutputVerdict",
    "Region",
    "RegionVerdict",
    "Repair",
    "Settings",
    "Status",
    "Verification",
    "VerifyOptions",
    "emulate",
    "load_user_inputs",
    "parse_shapes",
    "runtime_info",
    "verify_models",
    "verify_regions",
    "worst",
]
