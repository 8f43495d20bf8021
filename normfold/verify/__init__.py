"""Verification: is the rewritten model the same function, and how far does the evidence reach?

`verify_regions` compares every rewritten region under a rounding bound (L2); `verify_models` compares structure (L0)
and both whole models (L3) against the model's own sensitivity to rounding. Native code runs in a child process only.
"""

from __future__ import annotations

from .regions import verify_regions
from .runtime import runtime_info
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
    "OutputVerdict",
    "Region",
    "RegionVerdict",
    "Settings",
    "Status",
    "Verification",
    "VerifyOptions",
    "runtime_info",
    "verify_regions",
    "worst",
]
