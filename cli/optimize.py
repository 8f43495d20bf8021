"""`normfold optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .boundary import errors
from .options import (
    Aggressive,
    Atol,
    Bounds,
    Debug,
    FollowLinks,
    Format,
    FormatOption,
    Initializers,
    Inputs,
    Level,
    Memory,
    Model,
    NoImprove,
    Policy,
    Precise,
    RequireNative,
    Rtol,
    Seed,
    Shapes,
    Strict,
    TargetName,
    TargetOption,
    Threads,
    Timeout,
    Trials,
    Untrusted,
    comparison,
    configuration,
    repeatable,
)

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Where to write.  [default: MODEL.normfold.onnx]", show_default=False),
]


def optimize(
    model: Model,
    output: Output = None,
    verify: Annotated[
        Level, typer.Option("--verify", help="Evidence that a result needs before it is written.")
    ] = Level.FULL,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stop at the plan: print every decision, write nothing.")
    ] = False,
    target: TargetOption = TargetName.PORTABLE,
    threads: Threads = None,
    precise: Precise = False,
    initializers: Initializers = Policy.AUTO,
    skip: Annotated[list[str] | None, repeatable("--skip", "CODE", "Leave out a rule, such as NF102.")] = None,
    only: Annotated[list[str] | None, repeatable("--only", "CODE", "Use only this rule.")] = None,
    aggressive: Aggressive = False,
    inputs: Inputs = None,
    shape: Shapes = None,
    rtol: Rtol = None,
    atol: Atol = None,
    seed: Seed = 0,
    trials: Trials = 3,
    strict: Strict = False,
    no_improve: NoImprove = False,
    require_native: RequireNative = False,
    all_or_nothing: Annotated[
        bool, typer.Option("--all-or-nothing", help="A failing edit refuses everything instead of being dropped.")
    ] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Allow the output to be the input.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file of the default name that normfold did not write.")
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write only what changed; go on reading the data file of the original.")
    ] = False,
    sync: Annotated[
        bool, typer.Option(help="Wait until the result is on the disk, so that it survives a power cut.")
    ] = True,
    metadata: Annotated[bool, typer.Option(help="Record in the model what was done to it.")] = True,
    manifest: Annotated[
        bool,
        typer.Option(help="Write the folded statistics beside the result, so that check and recalibrate work on it."),
    ] = True,
    exit_nonzero_on_change: Annotated[
        bool, typer.Option("--exit-nonzero-on-change", help="Exit 1 if there was something to do.")
    ] = False,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit 0 where the gate would say 1; never hides a 2.")
    ] = False,
    keep_rejected: Annotated[
        Path | None,
        typer.Option(
            "--keep-rejected", metavar="PATH", help="Save a candidate that failed verification.", show_default=False
        ),
    ] = None,
    timeout: Timeout = 600.0,
    max_memory: Memory = None,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="List every decision.")] = False,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """Fold the normalisations of MODEL into its weights, verify the result, and write it.

    Writes MODEL.normfold.onnx, or nothing. Exit code 0: done and verified, or nothing to do; 1: verification said no;
    2: usage, input or environment.
    """  # fmt: skip
    with errors("optimize", format, debug, exit_zero=exit_zero):
        import normfold

        trust = normfold.Trust.of(links, untrusted=untrusted, caps=cap or ())
        source = normfold.Source(
            model, hashed=metadata, trust=trust
        )  # before the rest is imported: it is hashed meanwhile

        from normfold.destination import default_destination

        from . import render

        compare = comparison(inputs, shape, rtol, atol, max_memory)
        config = configuration(
            verify=verify.value, target=target.value, initializers=initializers.value,
            skip=tuple(skip or ()), only=tuple(only or ()), aggressive=aggressive, threads=threads, precise=precise, seed=seed,
            trials=trials, strict=strict, no_improve=no_improve, require_native=require_native,
            all_or_nothing=all_or_nothing, overlay=overlay, sync=sync, metadata=metadata, manifest=manifest, timeout_s=timeout,
            trust=trust, **compare,
        )  # fmt: skip
        destination = output or (model if in_place else default_destination(model))
        with render.progress(format) as report:
            result = normfold.optimize(
                source,
                None if dry_run else destination,
                config=config,
                in_place=in_place,
                overwrite=output is not None or force or in_place,
                dry_run=dry_run,
                keep_rejected=keep_rejected,
                progress=report,
            )
        render.optimized(result.report, format, verbose=verbose or dry_run)
    changed = result.changed and exit_nonzero_on_change
    raise typer.Exit(0 if exit_zero or not changed else 1)
