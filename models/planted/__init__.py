"""Trained networks with planted faults, and what `normfold check` must say about each.

    from models import planted
    case = planted.build("swapped_layers", seed=0)
    case.model, case.data, case.code, case.layers     # ModelProto, [N, …], "S13", (8, 12)

A case is a network that was trained for a few steps on made data, whose normalisation state, input pipeline or export was
then broken in exactly one way. `HEALTHY` are the same networks with nothing broken. The same name and seed give the same
bytes; the training behind a case is done once per process and seed. Importing this package does not import torch.
"""

from __future__ import annotations

from functools import cache

from models.planted.case import Case
from models.planted.faults import FAULTS, HEALTHY

__all__ = ["FAULTS", "HEALTHY", "Case", "build", "names"]

_ALL = {**HEALTHY, **FAULTS}


def names() -> list[str]:
    """Return the names of all cases, the healthy ones first."""
    return list(_ALL)


@cache
def build(name: str, seed: int = 0) -> Case:
    """Build one case, or return the one that was built before; an unknown name is a `KeyError` that lists the known ones."""
    if name not in _ALL:
        raise KeyError(f"no planted case {name!r}; known: {', '.join(_ALL)}")
    return _ALL[name](seed)
