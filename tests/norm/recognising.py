"""What the recogniser finds in a model, and whether it is what was meant."""

from __future__ import annotations

import numpy as np

from normfold.model.constants import Constants
from normfold.model.load import load
from normfold.model.shapes import Shapes
from normfold.norm.confirm import confirm
from normfold.norm.recognise import Recogniser


def sites(model):
    """Every norm that is recognised and holds under the numbers."""
    loaded, shapes = load(model), Shapes(Constants())
    found = list(Recogniser(loaded, shapes).sites())
    for site in found:
        operands = {value.name: value for value in site.operands}
        confirm(shapes.constants, site.base, site.output, site.norm, operands=operands, snap=site.snap, thorough=False)
    return found


def only(model):
    """The one norm of a model."""
    found = sites(model)
    assert len(found) == 1, [(site.output.name, site.norm.kind.value) for site in found]
    return found[0]


def full(parameter, rank, neutral):
    """A parameter, also where there is none."""
    return np.full((1,) * rank, neutral) if parameter is None else parameter


def assert_means(site, *, axes, epsilon, centred=True, gamma=None, beta=None, groups=None, channel=None, close=1e-6):
    """The norm is this one; `close` is the relative distance that rounded constants may bring."""
    norm = site.norm
    assert (norm.centred, norm.axes, norm.groups, norm.channel) == (centred, tuple(axes), groups, channel)
    np.testing.assert_allclose(norm.epsilon, epsilon, rtol=close, atol=0)
    rank = norm.rank
    for mine, wanted, neutral in ((norm.gamma, gamma, 1.0), (norm.beta, beta, 0.0)):
        found, meant = full(mine, rank, neutral), full(wanted, rank, neutral)
        shape = np.broadcast_shapes(found.shape, meant.shape)
        np.testing.assert_allclose(np.broadcast_to(found, shape), np.broadcast_to(meant, shape), rtol=close, atol=0)
