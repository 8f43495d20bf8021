"""The targets by name; light, because the command line offers them."""

from __future__ import annotations

from enum import StrEnum


class Target(StrEnum):
    """Where the model will run."""

    PORTABLE = "portable"
    ORT_CPU = "ort-cpu"
    ORT_CUDA = "ort-cuda"
    TENSORRT = "tensorrt"
    DIRECTML = "directml"
    OPENVINO = "openvino"
