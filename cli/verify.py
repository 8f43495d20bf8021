"""`normfold verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .boundary import errors
from .options import (
    Atol,
    Bounds,
    Debug,
    FollowLinks,
    Format,
    FormatOption,
    Inputs,
    Memory,
    RequireNative,
    Rtol,
    Seed,
    Shapes,
    Strict,
    TargetName,
    Timeout,
    Trials,
    Untrusted,
    comparison,
    configuration,
)


def verify(
    original: Annotated[Path, typer.Argument(help="The reference.", metavar="A", show_default=False)],
    candidate: Annotated[Path, typer.Argument(help="The model under test.", metavar="B", show_default=False)],
    inputs: Inputs = None,
    shape: Shapes = None,
    rtol: Rtol = None,
    atol: Atol = None,
    seed: Seed = 0,
    trials: Trials = 3,
    strict: Strict = False,
    require_native: RequireNative = False,
    target: Annotated[
        TargetName, typer.Option("--target", help="Where B will run; its limits and kernels count.")
    ] = TargetName.PORTABLE,
    timeout: Timeout = 600.0,
    max_memory: Memory = None,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """Are A and B the same function? Same interface, and outputs within what rounding explains.

    Exit code 0: equal, or inconclusive without --strict (the verdict says so); 1: different; 2: it could not be tried.
    """
    with errors("verify", format, debug):
        import normfold
        from normfold.verification import Status

        from . import render

        config = configuration(
            seed=seed,
            trials=trials,
            strict=strict,
            require_native=require_native,
            target=target.value,
            timeout_s=timeout,
            trust=normfold.Trust.of(links, untrusted=untrusted, caps=cap or ()),
            **comparison(inputs, shape, rtol, atol, max_memory),
        )
        with render.progress(format) as report:
            found = normfold.verify(original, candidate, config=config, progress=report)
        render.verified(found, original, candidate, format)
    fine = found.status.passed or (found.status is Status.INCONCLUSIVE and not strict)
    raise typer.Exit(0 if fine else 1)
