"""Training for a few steps, and letting statistics settle: how a normalisation gets the state that it is exported with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from models.exporting import reproducible, write
from models.planted import data, networks
from models.ports import Port

if TYPE_CHECKING:
    from torch import Tensor, nn  # noqa: TID251 - for annotations only, never executed

BATCH, STEPS = 32, 40
# Steps with fixed weights before the export: after 44 at a momentum of 0.1 less than 1 % of the initial 0 and 1 is left.
SETTLING = 64
_POOL = 1024  # training samples


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what.

    Args:
        network: of `networks`.
        warm: colours whose order can be told; `normalise`: whether training normalises its pixels.
        epsilon: of every BatchNormalization.
        gain: factor on all weights before a BatchNormalization, which changes nothing but the size of the variances.
    """

    network: str = "cnn"
    warm: bool = True
    normalise: bool = False
    epsilon: float = 1e-5
    gain: float = 1.0

    @property
    def is_image(self) -> bool:
        """Whether it takes images."""
        return self.network != "mlp"

    @property
    def port(self) -> Port:
        """The only input."""
        dims: tuple[int | str, ...] = (3, data.SIDE, data.SIDE) if self.is_image else (data.FEATURES,)
        return Port("x", ("batch", *dims))

    def draw(self, samples: int, seed: int) -> tuple[data.Float32, data.Labels]:
        """Samples as training sees them."""
        if not self.is_image:
            return data.rows(samples, seed)
        pixels, labels = data.images(samples, seed, warm=self.warm)
        return (data.normalised(pixels) if self.normalise else pixels), labels


Change = Callable[["Trained"], None]


@dataclass(slots=True, eq=False)
class Trained:
    """A module that was trained, to be changed in place, and the stream that it was trained on."""

    recipe: Recipe
    seed: int
    module: nn.Module

    @property
    def norms(self) -> list[Any]:
        """The BatchNormalizations, in execution order."""
        return [part for part in self.module.modules() if "BatchNorm" in type(part).__name__]

    def settle(self, *, momentum: float = 0.1, batch: int = BATCH, steps: int = SETTLING, restart: bool = True) -> None:
        """Let the statistics follow the data while the weights stand still; `momentum` is the weight of the new batch."""
        import torch  # noqa: TID251 - builders are where torch lives

        for norm in self.norms:
            if restart:
                norm.reset_running_stats()
            norm.momentum = momentum
        self.module.train()
        with torch.no_grad():
            for x, _ in _batches(self.recipe, self.seed + 1000, batch, steps):
                self.module(x)
        self.module.eval()

    def state(self) -> Mapping[str, NDArray[Any]]:
        """Parameters and buffers by name."""
        return {name: tensor.detach().numpy().copy() for name, tensor in self.module.state_dict().items()}

    def exported(self) -> ModelProto:
        """As ONNX, in the mode that the module is in."""
        import torch  # noqa: TID251 - builders are where torch lives

        with reproducible(self.seed):
            example = torch.from_numpy(self.recipe.draw(2, self.seed)[0])
            return write(self.module, [example], [self.recipe.port])


def trained(recipe: Recipe, seed: int) -> Trained:
    """A copy of the network that this recipe makes, statistics settled, in evaluation mode."""
    return Trained(recipe, seed, copy.deepcopy(_trained(recipe, seed)))


@cache
def _trained(recipe: Recipe, seed: int) -> nn.Module:
    with reproducible(seed) as torch:
        module = getattr(networks, recipe.network)(recipe.epsilon)
        made = Trained(recipe, seed, module)
        with torch.no_grad():
            for norm in made.norms:
                norm.weight.uniform_(0.7, 1.3)
                norm.bias.normal_(0.1, 0.2)
        optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
        for x, labels in _batches(recipe, seed, BATCH, STEPS):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(module(x), labels).backward()
            optimiser.step()
        made.settle(restart=False)
        if recipe.gain != 1:
            _scale(module, recipe.gain)
            made.settle(restart=False)
    return module.requires_grad_(False)


def _scale(module: nn.Module, gain: float) -> None:
    """Scale every weight that a BatchNormalization normalises again, and the statistics with it."""
    import torch  # noqa: TID251 - builders are where torch lives

    parts = list(module.modules())
    with torch.no_grad():
        for part, after in pairwise(parts):
            if "BatchNorm" in type(after).__name__:
                for vector in (part.weight, part.bias, after.running_mean, after.running_var):
                    if vector is not None:
                        vector *= gain**2 if vector is after.running_var else gain


def _batches(recipe: Recipe, seed: int, batch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of the training samples."""
    import torch  # noqa: TID251 - builders are where torch lives

    x, labels = _pool(recipe)
    rng = np.random.default_rng([seed, 3])
    for _ in range(steps):
        chosen = rng.choice(len(x), batch, replace=False)
        yield torch.from_numpy(x[chosen]), torch.from_numpy(labels[chosen])


@cache
def _pool(recipe: Recipe) -> tuple[data.Float32, data.Labels]:
    return recipe.draw(_POOL, 0)
