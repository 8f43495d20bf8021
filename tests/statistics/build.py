"""Models for `check`, built in code: a chain of Conv, BatchNormalization, Relu whose statistics fit, and small pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto

from normfold.checking import CheckConfig, check
from normfold.statistics.schema import CheckReport, Finding
from tests.support import build

CHANNELS = 16


def trained(layers: int = 6, channels: int = CHANNELS, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a chain of 1x1 Conv, BatchNormalization, Relu, with the statistics that made data gives."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4096, 3))
    values: dict[str, np.ndarray] = {}
    for i in range(layers):
        w = rng.normal(size=(channels, x.shape[1])) / np.sqrt(x.shape[1])
        gamma, beta = rng.uniform(0.5, 1.5, channels), rng.normal(0, 0.7, channels)
        y = x @ w.T
        mean, var = y.mean(0), y.var(0)
        values |= {f"w{i}": w[:, :, None, None], f"g{i}": gamma, f"b{i}": beta, f"m{i}": mean, f"v{i}": var}
        x = np.maximum((y - mean) / np.sqrt(var + 1e-5) * gamma + beta, 0)
    return {name: array.astype(np.float32) for name, array in values.items()}


def chain(values: dict[str, np.ndarray], *, epsilon: dict[int, float] | None = None, **options: Any) -> ModelProto:
    """The model of `trained`; `bn0`, `bn1`, … are the names of the norms."""
    layers = sum(name.startswith("w") for name in values)
    lines, last = [], "x"
    for i in range(layers):
        out = "y" if i == layers - 1 else f"r{i}"
        eps = (epsilon or {}).get(i, 1e-5)
        lines += [
            f"[conv{i}] c{i} = Conv({last}, w{i})",
            f"[bn{i}] n{i} = BatchNormalization<epsilon: float = {eps}>(c{i}, g{i}, b{i}, m{i}, v{i})",
            f"[relu{i}] {out} = Relu(n{i})",
        ]
        last = out
    return build("\n".join(lines), "float[N,3,8,8] x", "y", dict(values), **options)


def healthy(**options: Any) -> ModelProto:
    return chain(trained(), **options)


def examine(model: ModelProto, config: CheckConfig | None = None) -> CheckReport:
    return check(model, config=config)


def found(model: ModelProto, code: str) -> list[Finding]:
    """The findings of one code."""
    return [finding for finding in examine(model).findings if finding.code == code]


def codes(model: ModelProto, severity: str | None = None) -> set[str]:
    """Which codes a model has."""
    return {f.code for f in examine(model).findings if severity is None or f.severity == severity}


Change = Callable[[dict[str, np.ndarray]], None]


def changed(change: Change, **options: Any) -> ModelProto:
    """The healthy chain with other numbers."""
    values = trained()
    change(values)
    return chain(values, **options)
