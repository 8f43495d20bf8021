"""normfold makes the normalisation layers of an exported ONNX model cost nothing, and proves that nothing else changed.

    import normfold

    result = normfold.optimize("model.onnx", "model.normfold.onnx")
    result.report.verification.verdict          # "PASS"
    normfold.verify("a.onnx", "b.onnx").status  # Status.PASS

Everything is imported when it is first used: `import normfold` itself needs neither onnx nor a runtime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from normfold._version import __version__

if TYPE_CHECKING:
    from normfold.checking import CheckConfig, check
    from normfold.config import Config, VerifyLevel
    from normfold.errors import (
        EnvironmentProblem,
        GateError,
        InputError,
        NormfoldError,
        OutputError,
        UsageError,
        WorkerError,
    )
    from normfold.inspection import explain, inspect
    from normfold.model.caps import Caps
    from normfold.model.load import Initializers
    from normfold.model.source import Source
    from normfold.model.trust import Links, Trust
    from normfold.pipeline import Result, optimize, verify
    from normfold.recalibration import RecalibrateConfig, Recalibration, recalibrate
    from normfold.report.schema import InspectReport, Report, VerifyReport
    from normfold.statistics.schema import CheckReport
    from normfold.targets.names import Target
    from normfold.verification import Status, Verification

__all__ = [
    "Caps",
    "CheckConfig",
    "CheckReport",
    "Config",
    "EnvironmentProblem",
    "GateError",
    "Initializers",
    "InputError",
    "InspectReport",
    "Links",
    "NormfoldError",
    "OutputError",
    "RecalibrateConfig",
    "Recalibration",
    "Report",
    "Result",
    "Source",
    "Status",
    "Target",
    "Trust",
    "UsageError",
    "Verification",
    "VerifyLevel",
    "VerifyReport",
    "WorkerError",
    "__version__",
    "check",
    "explain",
    "inspect",
    "optimize",
    "recalibrate",
    "verify",
]

_HOME = {
    **dict.fromkeys(("CheckConfig", "check"), "normfold.checking"),
    **dict.fromkeys(("Config", "VerifyLevel"), "normfold.config"),
    "Target": "normfold.targets.names",
    **dict.fromkeys(
        ("EnvironmentProblem", "GateError", "InputError", "NormfoldError", "OutputError", "UsageError", "WorkerError"),
        "normfold.errors",
    ),
    **dict.fromkeys(("RecalibrateConfig", "Recalibration", "recalibrate"), "normfold.recalibration"),
    **dict.fromkeys(("explain", "inspect"), "normfold.inspection"),
    **dict.fromkeys(("Result", "optimize", "verify"), "normfold.pipeline"),
    **dict.fromkeys(("InspectReport", "Report", "VerifyReport"), "normfold.report.schema"),
    **dict.fromkeys(("Status", "Verification"), "normfold.verification"),
    "CheckReport": "normfold.statistics.schema",
    "Caps": "normfold.model.caps",
    "Initializers": "normfold.model.load",
    "Source": "normfold.model.source",
    **dict.fromkeys(("Links", "Trust"), "normfold.model.trust"),
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'normfold' has no attribute {name!r}")
    return getattr(import_module(home), name)
