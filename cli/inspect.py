"""`normfold inspect`."""

from __future__ import annotations

from .boundary import errors
from .options import Debug, Format, FormatOption, Initializers, Model, Policy, configuration


def inspect(
    model: Model,
    initializers: Initializers = Policy.AUTO,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """List the normalisations of MODEL with their parameters at a glance."""
    with errors("inspect", format, debug):
        import normfold

        from . import render

        render.inspected(normfold.inspect(model, config=configuration(initializers=initializers.value)), format)
