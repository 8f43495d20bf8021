"""The cases: one function each, from a seed to a `Case`. What is not mentioned in it is as in the healthy network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from models.planted import data
from models.planted.case import Case
from models.planted.training import Recipe, Trained, trained

SAMPLES = 512
SWAPPED, CORRUPTED = (8, 12), 9  # in the cnn: all three in its second stage
_HELD_OUT = 5000  # seed of the data that is checked: never that of the training samples

CNN = Recipe()
NORMALISED = Recipe(normalise=True)
PLAIN_NORMALISED = Recipe(normalise=True, warm=False)  # the order of its channels cannot be told
MLP, DEPTHWISE = Recipe("mlp"), Recipe("depthwise")
# Variances of the order of epsilon, so that it matters which one is used.
FAINT = Recipe(gain=0.1)


def _case(
    name: str,
    made: Trained,
    code: str = "",
    layers: tuple[int, ...] = (),
    *,
    epsilon: float | None = None,
    batch_size: int = 32,
) -> Case:
    """The module as it stands now, exported, with held-out data."""
    x, labels = made.recipe.draw(SAMPLES, _HELD_OUT + made.seed)
    return Case(
        name=name, model=made.exported(), data=x, labels=labels, batch_size=batch_size, state=made.state(),
        epsilon=made.recipe.epsilon if epsilon is None else epsilon, code=code, layers=layers,
    )  # fmt: skip


# --- nothing is wrong -----------------------------------------------------------------------------------------------------


def healthy_cnn(seed: int) -> Case:
    """Build twenty layers on pixels in 0…1."""
    return _case("healthy_cnn", trained(CNN, seed))


def healthy_normalised(seed: int) -> Case:
    """Build the same on normalised pixels."""
    return _case("healthy_normalised", trained(NORMALISED, seed))


def healthy_mlp(seed: int) -> Case:
    """Build the network on a table."""
    return _case("healthy_mlp", trained(MLP, seed))


def healthy_depthwise(seed: int) -> Case:
    """Build the network with depthwise convolutions."""
    return _case("healthy_depthwise", trained(DEPTHWISE, seed))


# --- the statistics are wrong ---------------------------------------------------------------------------------------------


def never_updated(seed: int) -> Case:
    """Forget all statistics: every mean is 0, every variance 1."""
    made = trained(CNN, seed)
    for norm in made.norms:
        norm.reset_running_stats()
    return _case("never_updated", made, "S01")


def corrupted_layer(seed: int) -> Case:
    """Give every channel of one layer of twenty the statistics of another channel, so that large ones meet small ones."""
    made = trained(CNN, seed)
    norm = made.norms[CORRUPTED]
    order = norm.running_mean.argsort()
    for vector in (norm.running_mean, norm.running_var):
        vector[order] = vector[order.flip(0)].clone()
    return _case("corrupted_layer", made, "S13", (CORRUPTED,))


def swapped_layers(seed: int) -> Case:
    """Give two layers of equal width the statistics of each other."""
    made = trained(CNN, seed)
    one, other = (made.norms[position] for position in SWAPPED)
    for name in ("running_mean", "running_var"):
        mine, theirs = getattr(one, name), getattr(other, name)
        kept = mine.clone()
        mine.copy_(theirs)
        theirs.copy_(kept)
    return _case("swapped_layers", made, "S13", SWAPPED)


def under_trained(seed: int) -> Case:
    """Stop the averages early: 63 % of the way from 0 and 1 to the data."""
    made = trained(CNN, seed)
    made.settle(momentum=0.01, steps=100)
    return _case("under_trained", made, "S10")


def momentum_swapped(seed: int) -> Case:
    """Take the weight of the old value for that of the new one: the statistics are nearly those of the last batch."""
    made = trained(CNN, seed)
    made.settle(momentum=0.9, batch=4)
    return _case("momentum_swapped", made, "S11")


def small_batch(seed: int) -> Case:
    """Collect the statistics from batches of two."""
    made = trained(MLP, seed)
    made.settle(batch=2)
    return _case("small_batch", made, "S14")


# --- epsilon --------------------------------------------------------------------------------------------------------------


def epsilon_too_large(seed: int) -> Case:
    """Export with 1e-3 what was trained with 1e-5."""
    return _other_epsilon("epsilon_too_large", seed, trained_with=1e-5, exported_with=1e-3)


def epsilon_too_small(seed: int) -> Case:
    """Export with 1e-5 what was trained with 1e-3."""
    return _other_epsilon("epsilon_too_small", seed, trained_with=1e-3, exported_with=1e-5)


def _other_epsilon(name: str, seed: int, *, trained_with: float, exported_with: float) -> Case:
    made = trained(replace(FAINT, epsilon=trained_with), seed)
    for norm in made.norms:
        norm.eps = exported_with
    return _case(name, made, "S06", epsilon=trained_with)


def folded_with_other_epsilon(seed: int) -> Case:
    """Fold with 1e-3 what was trained with 1e-5: there is no BatchNormalization left that could show it."""
    from torch import nn  # noqa: TID251 - builders are where torch lives
    from torch.nn.utils.fusion import fuse_conv_bn_eval  # noqa: TID251 - as above

    made = trained(FAINT, seed)
    state = made.state()
    parts = list(made.module)
    for norm in made.norms:
        norm.eps = 1e-3
    fused = [
        fuse_conv_bn_eval(part, parts[i + 1]) if isinstance(part, nn.Conv2d) else part
        for i, part in enumerate(parts)
        if part not in made.norms
    ]
    made.module = nn.Sequential(*fused).eval()
    return replace(_case("folded_with_other_epsilon", made, "X01", epsilon=1e-5), state=state)


# --- the export is wrong --------------------------------------------------------------------------------------------------


def training_mode(seed: int) -> Case:
    """Export before the network is put into evaluation mode."""
    made = trained(CNN, seed)
    made.module.train()
    return _case("training_mode", made, "M01")


# --- the data is wrong, and the network is not ----------------------------------------------------------------------------


def times_255(seed: int) -> Case:
    """Feed pixels in 0…255 to a network that learned on 0…1."""
    case = _case("times_255", trained(CNN, seed), "D01")
    return replace(case, data=(case.data * 255).astype(np.float32), transform="/255")


def swapped_colours(seed: int) -> Case:
    """Feed blue, green, red to a network that learned on red, green, blue, with colours that differ."""
    case = _case("swapped_colours", trained(CNN, seed), "D01")
    return replace(case, data=np.ascontiguousarray(case.data[:, ::-1]), transform="BGR")


def not_normalised(seed: int) -> Case:
    """Feed pixels in 0…1 to a network that learned on normalised ones."""
    case = _case("not_normalised", trained(NORMALISED, seed), "D01")
    return replace(case, data=data.images(SAMPLES, _HELD_OUT + seed)[0], transform="normalise")


def not_divided_nor_normalised(seed: int) -> Case:
    """Feed pixels in 0…255 to a network that learned on normalised ones."""
    case = not_normalised(seed)
    pixels = (case.data * 255).astype(np.float32)
    return replace(case, name="not_divided_nor_normalised", data=pixels, transform="/255 then normalise")


def unshuffled(seed: int) -> Case:
    """Hand in the samples sorted by class."""
    case = _case("unshuffled", trained(NORMALISED, seed), "D03")
    order = np.argsort(case.labels, kind="stable")
    return replace(case, data=case.data[order], labels=case.labels[order])


HEALTHY: Mapping[str, Callable[[int], Case]] = {
    case.__name__: case for case in (healthy_cnn, healthy_normalised, healthy_mlp, healthy_depthwise)
}
FAULTS: Mapping[str, Callable[[int], Case]] = {
    case.__name__: case
    for case in (
        never_updated,
        corrupted_layer,
        swapped_layers,
        under_trained,
        momentum_swapped,
        small_batch,
        epsilon_too_large,
        epsilon_too_small,
        folded_with_other_epsilon,
        training_mode,
        times_255,
        swapped_colours,
        not_normalised,
        not_divided_nor_normalised,
        unshuffled,
    )
}
