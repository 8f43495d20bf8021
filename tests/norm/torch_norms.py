"""Every norm module of torch, in one network with an output each, through both exporters."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import torch  # noqa: TID251 - real exports are what is under test
from torch import nn  # noqa: TID251

SEQUENCE, IMAGE, SIGNAL, VOLUME = "sequence", "image", "signal", "volume"
EXTENTS = {SEQUENCE: (2, 5, 24), IMAGE: (2, 12, 6, 8), SIGNAL: (2, 12, 10), VOLUME: (2, 4, 3, 4, 5)}


class LayerNorm2d(nn.Module):
    """ConvNeXt: over the channels of an image, written out."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class PermutedLayerNorm(nn.LayerNorm):
    """timm: channels to the back, LayerNorm, and to the front again."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class UserLayerNorm(nn.Module):
    """What people write: `std` is unbiased, and epsilon is outside of the root, which makes it no norm of ours."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        if self.inside:
            return (x - mean) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-5)
        return (x - mean) / (x.std(-1, keepdim=True) + 1e-5)


class LlamaNorm(nn.Module):
    """RMSNorm, written out, with the statistics in float32."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class ResponseNorm(nn.Module):
    """GRN of ConvNeXt 2: an L2 norm over space and its mean over channels. No norm of ours."""

    def forward(self, x):
        g = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
        return x * (g / (g.mean(dim=1, keepdim=True) + 1e-6)) + x


@dataclass(frozen=True)
class Item:
    """A module, its input, and the kind of norm that it is; None for none of ours."""

    make: object
    port: str
    kind: str | None


ITEMS = {
    "layer": Item(lambda: nn.LayerNorm(24), SEQUENCE, "LayerNorm"),
    "layer_plain": Item(lambda: nn.LayerNorm(24, elementwise_affine=False), SEQUENCE, "LayerNorm"),
    "layer_gamma": Item(lambda: nn.LayerNorm(24, bias=False), SEQUENCE, "LayerNorm"),
    "layer_wide": Item(lambda: nn.LayerNorm((5, 24)), SEQUENCE, "LayerNorm"),
    "layer_sample": Item(lambda: nn.LayerNorm((12, 6, 8), eps=1e-3), IMAGE, "LayerNorm"),
    "layer_2d": Item(lambda: LayerNorm2d(12), IMAGE, "LayerNorm"),
    "layer_permuted": Item(lambda: PermutedLayerNorm(12), IMAGE, "LayerNorm"),
    "layer_unbiased": Item(lambda: UserLayerNorm(True), SEQUENCE, "LayerNorm"),
    "layer_outside": Item(lambda: UserLayerNorm(False), SIGNAL, None),  # another input: no shared statistics
    "rms": Item(lambda: nn.RMSNorm(24), SEQUENCE, "RMSNorm"),
    "rms_plain": Item(lambda: nn.RMSNorm(24, eps=1e-6, elementwise_affine=False), SEQUENCE, "RMSNorm"),
    "rms_wide": Item(lambda: nn.RMSNorm((5, 24), eps=1e-5), SEQUENCE, "RMSNorm"),
    "rms_llama": Item(lambda: LlamaNorm(24), SEQUENCE, "RMSNorm"),
    "group": Item(lambda: nn.GroupNorm(3, 12), IMAGE, "GroupNorm"),
    "group_plain": Item(lambda: nn.GroupNorm(4, 12, affine=False), IMAGE, "GroupNorm"),
    "group_one": Item(lambda: nn.GroupNorm(1, 12), IMAGE, "LayerNorm"),
    "group_all": Item(lambda: nn.GroupNorm(12, 12), IMAGE, "InstanceNorm"),
    "group_1d": Item(lambda: nn.GroupNorm(3, 12), SIGNAL, "GroupNorm"),
    "group_3d": Item(lambda: nn.GroupNorm(2, 4, eps=1e-3), VOLUME, "GroupNorm"),
    "instance_1d": Item(lambda: nn.InstanceNorm1d(12, affine=True), SIGNAL, "InstanceNorm"),
    "instance_2d": Item(lambda: nn.InstanceNorm2d(12), IMAGE, "InstanceNorm"),
    "instance_2d_affine": Item(lambda: nn.InstanceNorm2d(12, affine=True), IMAGE, "InstanceNorm"),
    "instance_3d": Item(lambda: nn.InstanceNorm3d(4, affine=True), VOLUME, "InstanceNorm"),
    "instance_tracked": Item(lambda: nn.InstanceNorm2d(12, affine=True, track_running_stats=True), IMAGE, None),
    "response_local": Item(lambda: nn.LocalResponseNorm(3), IMAGE, None),
    "response_global": Item(lambda: ResponseNorm(), IMAGE, None),
}


class Network(nn.Module):
    """All of them, on four inputs."""

    def __init__(self, names):
        super().__init__()
        self.names = names
        self.parts = nn.ModuleDict({f"m_{name}": ITEMS[name].make() for name in names})

    def forward(self, *inputs):
        ports = dict(zip(EXTENTS, inputs, strict=True))
        # Behind each a Tanh, so that no output is the norm itself and none is shared.
        return tuple(torch.tanh(self.parts[f"m_{name}"](ports[ITEMS[name].port])) for name in self.names)


def network(names, seed=0):
    """With parameters that are not those of a fresh module."""
    torch.manual_seed(seed)
    made = Network(names)
    with torch.no_grad():
        for part in made.modules():
            for name in ("weight", "bias", "running_mean"):
                tensor = getattr(part, name, None)
                if tensor is not None:
                    tensor.copy_(torch.randn_like(tensor) * 0.3 + (name == "weight"))
            if getattr(part, "running_var", None) is not None:
                part.running_var.uniform_(0.5, 2)
    return made.eval().requires_grad_(False)


def inputs(seed=1):
    """Numbers with a mean, for every port."""
    rng = np.random.default_rng(seed)
    return {port: (rng.standard_normal(extents) * 1.3 + 0.4).astype(np.float32) for port, extents in EXTENTS.items()}


def exported(made, opset, *, dynamo=False, dynamic=True):
    """The model that torch writes."""
    args = tuple(torch.from_numpy(array) for array in inputs().values())
    outputs = [f"y_{name}" for name in made.names]
    buffer = io.BytesIO()
    more = {}
    if dynamo:
        batch = torch.export.Dim("batch")
        more = {"dynamic_shapes": (tuple({0: batch} for _ in args),)} if dynamic else {}
    elif dynamic:
        more = {"dynamic_axes": {name: {0: "batch"} for name in (*EXTENTS, *outputs)}}
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        try:
            if dynamo:
                program = torch.onnx.export(
                    made, args, dynamo=True, verbose=False, opset_version=opset, input_names=list(EXTENTS),
                    output_names=outputs, **more,
                )  # fmt: skip
                return program.model_proto
            torch.onnx.export(
                made, args, buffer, dynamo=False, opset_version=opset, input_names=list(EXTENTS),
                output_names=outputs, **more,
            )  # fmt: skip
        finally:
            torch.set_num_threads(threads)
    return onnx.load_from_string(buffer.getvalue())


def truth(made):
    """What torch makes of the inputs, by name of the output."""
    with torch.no_grad():
        results = made(*(torch.from_numpy(array) for array in inputs().values()))
    return {f"y_{name}": result.numpy() for name, result in zip(made.names, results, strict=True)}
