"""`normfold explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from .boundary import errors
from .options import (
    Aggressive,
    Bounds,
    Debug,
    FollowLinks,
    Format,
    FormatOption,
    Initializers,
    Model,
    Policy,
    Precise,
    TargetName,
    TargetOption,
    Threads,
    Untrusted,
    configuration,
)


def explain(
    model: Model,
    node: Annotated[
        str | None,
        typer.Argument(help="Name of a node or of one of its outputs.", metavar="[NODE]", show_default=False),
    ] = None,
    initializers: Initializers = Policy.AUTO,
    target: TargetOption = TargetName.PORTABLE,
    threads: Threads = None,
    precise: Precise = False,
    aggressive: Aggressive = False,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """Why was this folded, or not? One line for every norm and affine of MODEL, or for one NODE."""
    with errors("explain", format, debug):
        import normfold

        from . import render

        decisions = normfold.explain(
            model,
            node,
            config=configuration(
                initializers=initializers.value,
                target=target.value,
                threads=threads,
                precise=precise,
                aggressive=aggressive,
                trust=normfold.Trust.of(links, untrusted=untrusted, caps=cap or ()),
            ),
        )
        render.explained(decisions, node, format)
