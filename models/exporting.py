"""From a recipe of torch modules to an ONNX model in which every normalisation is still there.

Three things would make a reference model useless here, and this module prevents them:

* *The exporter folds BatchNorm itself.* The TorchScript exporter fuses Conv-BN only when it is told that it exports
  for inference, so it is told to *preserve* the mode of a model that is in inference mode. The torch.export-based
  exporter folds in its optimisation pass (`FuseBatchNormIntoConv`), so that pass is switched off.
* *The statistics are those of a fresh module* (mean 0, variance 1, gamma 1, beta 0), for which most wrong folds are
  right. `_train` gives every norm a random affine and real running statistics, then nudges them, as deployment does.
* *The bytes differ between two runs or two machines.* Seeds are local, one thread does the arithmetic, and what the
  exporters write about this machine (stack traces) is removed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto

from models.ports import SIZES, VOCABULARY, Port, draw

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed

Make = Callable[[], "nn.Module"]
TRAINING_BATCH = 32


def block(forward: Callable[..., Tensor], **parts: nn.Module) -> nn.Module:
    """Return a module with the named parts whose forward is a formula: `block(lambda m, x: x + m.body(x), body=…)`."""
    from torch import nn  # noqa: TID251 - builders are where torch lives

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                self.add_module(name, part)

        def forward(self, *inputs: Tensor) -> Tensor:
            return forward(self, *inputs)

    return Block()


def export(
    make: Make,
    ports: Sequence[Port],
    seed: int,
    *,
    opset: int = 17,
    negative: float = 0.0,
    fold_constants: bool = True,
    finish: Callable[[nn.Module], nn.Module] | None = None,
) -> ModelProto:
    """Train the recipe and write it with the TorchScript exporter.

    `negative` is the share of norm scales below zero; `finish` converts the trained module (to half precision, say).
    `fold_constants` evaluates constant subgraphs; it does not fold BatchNorm.
    """
    with reproducible(seed):
        module, inputs = _grown(make, ports, seed, negative)
        if finish:
            module = finish(module)
            inputs = [_like(module, tensor) for tensor in inputs]
        return write(module, inputs, ports, opset=opset, fold_constants=fold_constants)


def write(
    module: nn.Module, inputs: Sequence[Tensor], ports: Sequence[Port], *, opset: int = 17, fold_constants: bool = True
) -> ModelProto:
    """Write a module, in the mode that it is in, with the TorchScript exporter; call it inside `reproducible`."""
    import torch  # noqa: TID251 - builders are where torch lives

    buffer = io.BytesIO()
    torch.onnx.export(
        module,
        tuple(inputs),
        buffer,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=fold_constants,
        opset_version=opset,
        input_names=[port.name for port in ports],
        output_names=["y"],
        dynamic_axes={**{port.name: port.dynamic for port in ports}, "y": {0: "batch"}},
    )
    return _anonymous(_unguessed(onnx.load_from_string(buffer.getvalue())))


def export_dynamo(make: Make, ports: Sequence[Port], seed: int, *, opset: int, negative: float = 0.0) -> ModelProto:
    """Train the recipe and write it with the exporter that is built on torch.export, unoptimised."""
    with reproducible(seed) as torch:
        module, inputs = _grown(make, ports, seed, negative)
        # Wrapped so that all recipes have one signature, `*inputs`, which the nested `dynamic_shapes` describes.
        module = block(lambda m, *tensors: m.net(*tensors), net=module).eval()
        program = torch.onnx.export(
            module,
            tuple(inputs),
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            input_names=[port.name for port in ports],
            output_names=["y"],
            dynamic_shapes=(tuple(port.dynamic for port in ports),),
        )
    return _anonymous(program.model_proto)


@contextmanager
def reproducible(seed: int) -> Iterator[Any]:
    """Yield torch with a local seed, one thread, and its remarks about its own exporters silenced."""
    import torch  # noqa: TID251 - builders are where torch lives

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield torch
        finally:
            torch.set_num_threads(threads)


def _grown(make: Make, ports: Sequence[Port], seed: int, negative: float) -> tuple[nn.Module, list[Tensor]]:
    module, rng = make(), np.random.default_rng(seed)
    _train(module, [_draw(port, rng, TRAINING_BATCH) for port in ports], negative)
    return module, [_draw(port, rng, SIZES["batch"]) for port in ports]


def _draw(port: Port, rng: np.random.Generator, batch: int) -> Tensor:
    import torch  # noqa: TID251 - builders are where torch lives

    shape = port.sizes(batch)
    array = rng.integers(0, VOCABULARY, shape) if port.indices else draw(rng, shape).astype(np.float32)
    return torch.from_numpy(array)


def _like(module: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.to(next(module.parameters()).dtype) if tensor.is_floating_point() else tensor


def _train(module: nn.Module, inputs: Sequence[Tensor], negative: float) -> None:
    """Give every norm an affine, then let BatchNorm collect statistics, and nudge these away from the exact ones."""
    import torch  # noqa: TID251 - builders are where torch lives

    norms = [part for part in module.modules() if "Norm" in type(part).__name__]
    batch_norms = [part for part in norms if getattr(part, "running_mean", None) is not None]
    with torch.no_grad():
        for norm in norms:
            _randomise(norm, negative)
        _collect(module, batch_norms, inputs)
        for norm in batch_norms:
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.6, 1.6)
    module.eval().requires_grad_(False)


def _randomise(norm: nn.Module, negative: float) -> None:
    import torch  # noqa: TID251 - builders are where torch lives

    if getattr(norm, "weight", None) is not None:
        signs = torch.where(torch.rand_like(norm.weight) < negative, -1.0, 1.0)
        norm.weight.copy_(signs * torch.empty_like(norm.weight).uniform_(0.5, 1.5))
    if getattr(norm, "bias", None) is not None:
        norm.bias.normal_(0.0, 0.3)


def _collect(module: nn.Module, batch_norms: Sequence[nn.Module], inputs: Sequence[Tensor]) -> None:
    for norm in batch_norms:
        norm.momentum = None  # a plain average, so that one pass is enough
    module.train()
    module(*inputs)
    for norm in batch_norms:
        norm.momentum = 0.1


def _unguessed(model: ModelProto) -> ModelProto:
    """Remove the output's guessed axis labels: the TorchScript exporter has been seen to call a width "batch"."""
    for dim in model.graph.output[0].type.tensor_type.shape.dim[1:]:
        if dim.dim_param:
            dim.Clear()
    return model


def _anonymous(model: ModelProto) -> ModelProto:
    """Remove what the exporters record about the machine: stack traces, which hold paths."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    return model
