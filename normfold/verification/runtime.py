"""Which onnxruntime is installed, without importing it."""

from __future__ import annotations

from importlib import metadata

from normfold.errors import EnvironmentProblem

DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-silicon",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-cann",
    "onnxruntime-vitisai",
    "onnxruntime-webgpu",
    "ort-nightly",
    "ort-nightly-gpu",
)


def runtime_info() -> dict[str, str]:
    """Return {"distribution": name, "version": version} of the one installed onnxruntime.

    Raises:
        EnvironmentProblem: `runtime.missing` when none is installed; `runtime.conflict` when several are, because
            they share one folder and overwrite each other.
    """
    found = {name: version for name in DISTRIBUTIONS if (version := _version(name))}
    if not found:
        raise EnvironmentProblem("runtime.missing", "no onnxruntime is installed", hint='pip install "normfold[cpu]"')
    if len(found) > 1:
        keep = next((name for name in found if name != "onnxruntime"), "onnxruntime")
        raise EnvironmentProblem(
            "runtime.conflict",
            f"several onnxruntime distributions share one folder: {', '.join(found)}",
            hint=f"pip uninstall -y {' '.join(found)} && pip install {keep}=={found[keep]}",
        )
    name, version = next(iter(found.items()))
    return {"distribution": name, "version": version}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
