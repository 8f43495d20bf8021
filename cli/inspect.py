"""`normfold inspect`."""

from __future__ import annotations

from .boundary import errors
from .options import (
    Bounds,
    Debug,
    FollowLinks,
    Format,
    FormatOption,
    Initializers,
    Model,
    Policy,
    Untrusted,
    configuration,
)


def inspect(
    model: Model,
    initializers: Initializers = Policy.AUTO,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """List the normalisations of MODEL with their parameters at a glance."""
    with errors("inspect", format, debug):
        import normfold

        from . import render

        config = configuration(
            initializers=initializers.value, trust=normfold.Trust.of(links, untrusted=untrusted, caps=cap or ())
        )
        render.inspected(normfold.inspect(model, config=config), format)
