"""Small convolutional networks with known statistics, and data for them. No framework: weights are drawn, statistics measured.

`Net.fitted` fills in the statistics that the network has on given data, by running it layer by layer with onnxruntime, so
that nothing that is under test takes part.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.model.build import actual, net, node


@dataclass(frozen=True)
class Net:
    """`layers` times Conv, BatchNormalization, Relu; then a mean over space and a Gemm.

    `mean` and `var` hold one vector per layer; 0 and 1 until `fitted`.
    """

    channels: int = 8
    layers: int = 5
    inputs: int = 3
    classes: int = 4
    side: int = 8
    seed: int = 0
    epsilon: float = 1e-5
    gain: float = 1.0
    beta_scale: float = 0.3
    training: tuple[int, ...] = ()
    batch: int | str = "N"
    mean: tuple[np.ndarray, ...] = field(default=())
    var: tuple[np.ndarray, ...] = field(default=())

    def statistics(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        c = self.channels
        mean = list(self.mean) or [np.zeros(c, np.float32) for _ in range(self.layers)]
        var = list(self.var) or [np.ones(c, np.float32) for _ in range(self.layers)]
        return mean, var

    def weights(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.seed)
        made = {}
        before = self.inputs
        for i in range(self.layers):
            shape = (self.channels, before, 3, 3)
            made[f"w{i}"] = (rng.normal(size=shape) * self.gain * np.sqrt(2 / (9 * before))).astype(np.float32)
            made[f"gamma{i}"] = rng.uniform(0.5, 1.5, self.channels).astype(np.float32)
            made[f"beta{i}"] = rng.normal(0, self.beta_scale, self.channels).astype(np.float32)
            before = self.channels
        made["head"] = (2 * rng.normal(size=(self.channels, self.classes))).astype(np.float32)
        mean, var = self.statistics()
        for i in range(self.layers):
            made[f"mean{i}"], made[f"var{i}"] = mean[i].astype(np.float32), var[i].astype(np.float32)
        return made

    def model(self, *, opset: int = 17) -> ModelProto:
        nodes, x = [], "x"
        for i in range(self.layers):
            nodes.append(node("Conv", [x, f"w{i}"], [f"conv{i}"], pads=[1, 1, 1, 1], name=f"conv{i}"))
            parameters = [f"conv{i}", *(f"{part}{i}" for part in ("gamma", "beta", "mean", "var"))]
            mode = {"training_mode": 1} if i in self.training else {}
            made = [f"bn{i}", f"new_mean{i}", f"new_var{i}"] if i in self.training else [f"bn{i}"]
            nodes.append(node("BatchNormalization", parameters, made, name=f"bn{i}", epsilon=self.epsilon, **mode))
            nodes.append(node("Relu", [f"bn{i}"], [f"relu{i}"]))
            x = f"relu{i}"
        nodes += [
            node("GlobalAveragePool", [x], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"]),
            node("MatMul", ["flat", "head"], ["scores"]),
        ]
        dims = [self.batch, self.inputs, self.side, self.side]
        output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [self.batch, self.classes])
        return net(nodes, {"x": dims}, [output], self.weights(), opset=opset)

    def fitted(self, x: np.ndarray) -> Net:
        """With the statistics of this data."""
        mean, var = ([np.array(v) for v in part] for part in self.statistics())
        free = replace(self, training=(), batch="N")
        for i in range(self.layers):
            made = replace(free, mean=tuple(mean), var=tuple(var)).model()
            values = actual(made, {"x": x}, [f"conv{i}"])[f"conv{i}"].astype(np.float64)
            mean[i], var[i] = values.mean((0, 2, 3)), values.var((0, 2, 3))
        return replace(self, mean=tuple(mean), var=tuple(var))

    def with_layer(self, index: int, mean: np.ndarray | None = None, var: np.ndarray | None = None) -> Net:
        means, variances = self.statistics()
        if mean is not None:
            means[index] = mean
        if var is not None:
            variances[index] = var
        return replace(self, mean=tuple(means), var=tuple(variances))


def images(samples: int, *, side: int = 8, seed: int = 0, channels: int = 3) -> np.ndarray:
    """`[N, C, side, side]`, standardised, spatially correlated, each sample with an offset of its own, colours unequal."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(samples, channels, side // 2, side // 2)).repeat(2, 2).repeat(2, 3)
    own = rng.normal(size=(samples, channels, 1, 1)) * np.linspace(0.3, 0.7, channels)[None, :, None, None]
    x = 0.6 * coarse + own + 0.3 * rng.normal(size=coarse.shape)
    return x.astype(np.float32)
