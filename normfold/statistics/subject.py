"""What is examined: one model, read once, with everything that the examiners share.

Produced by `open_subject`; consumed by all of them. Read-only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from normfold.model.constants import Constants
from normfold.model.inline import inline
from normfold.model.load import Initializers, Model, load
from normfold.model.shapes import Shapes
from normfold.model.source import Source
from normfold.statistics.sites import StatelessSite, StatSite, stat_sites


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model under examination.

    Args:
        path: of the file, None for a ModelProto.
        sha256: of the file, None for a ModelProto.
        original: as it was loaded.
        model: the same with calls of functions inlined where that can be done; sites and probes refer to it.
        constants, shapes: of `model`.
        norms: all norm operators, in execution order.
    """

    path: Path | None
    sha256: str | None
    original: Model
    model: Model
    constants: Constants
    shapes: Shapes
    norms: tuple[StatSite | StatelessSite, ...]

    @property
    def sites(self) -> tuple[StatSite, ...]:
        """The BatchNormalizations."""
        return tuple(site for site in self.norms if isinstance(site, StatSite))

    @property
    def stateless(self) -> tuple[StatelessSite, ...]:
        """The norms without stored statistics."""
        return tuple(site for site in self.norms if isinstance(site, StatelessSite))


def open_subject(
    source: str | Path | Source | ModelProto, *, initializers: Initializers = Initializers.AUTO
) -> Subject:
    """Load a model for examination.

    Raises:
        InputError: it is no valid model.
    """
    if isinstance(source, (str, Path)):
        source = Source(source)
    original = load(source, initializers=initializers)
    fingerprint = source.fingerprint if isinstance(source, Source) else None
    model = inline(original).model if original.functions else original
    constants = Constants()
    shapes = Shapes(constants)
    return Subject(
        path=original.path,
        sha256=None if fingerprint is None else fingerprint.hexdigest(),
        original=original,
        model=model,
        constants=constants,
        shapes=shapes,
        norms=stat_sites(model, constants, shapes),
    )
