"""`normfold check`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from .boundary import errors
from .data_options import (
    Batch,
    Data,
    GroupKey,
    LayoutOption,
    Limit,
    Mean,
    Shuffle,
    Size,
    Std,
    data_options,
    limits,
)
from .options import Bounds, Debug, FollowLinks, Format, Initializers, Memory, Model, Policy, Timeout, Untrusted


class CheckFormat(StrEnum):
    """How the findings are printed."""

    HUMAN = "human"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"
    GITHUB = "github"


class Attribution(StrEnum):
    """How pass B is run."""

    AUTO = "auto"
    BATCH = "batch"
    SEQUENTIAL = "sequential"


_METHODS: dict[Attribution, Literal["batch", "sequential"] | None] = {
    Attribution.AUTO: None,
    Attribution.BATCH: "batch",
    Attribution.SEQUENTIAL: "sequential",
}


class FailOn(StrEnum):
    """The mildest severity that makes the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


def check(
    model: Model,
    data: Data = None,
    batch: Batch = None,
    limit: Limit = None,
    seed: Shuffle = None,
    group_key: GroupKey = "",
    mean: Mean = "",
    std: Std = "",
    layout: LayoutOption = None,
    size: Size = "",
    attribution: Annotated[
        Attribution,
        typer.Option(
            "--attribution", help="How root causes are told from collateral.", rich_help_panel="Data", show_default=True
        ),
    ] = Attribution.AUTO,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Weights that it was exported from: .safetensors, or .pt with torch.",
            show_default=False,
            rich_help_panel="References",
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            "--epsilon",
            min=0,
            help="Of the layers of the checkpoint.  [default: 1e-5]",
            show_default=False,
            rich_help_panel="References",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="Of normfold stats record, for a model without statistics.",
            show_default=False,
            rich_help_panel="References",
        ),
    ] = None,
    timeout: Timeout = 600.0,
    max_memory: Memory = None,
    initializers: Initializers = Policy.AUTO,
    format: Annotated[  # noqa: A002 - the name of the option
        CheckFormat, typer.Option("--format", help="human: tables; the others: one document on stdout.")
    ] = CheckFormat.HUMAN,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a report as one page.", show_default=False)
    ] = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option("--fail-on", help="Mildest severity that counts.  [default: error]", show_default=False),
    ] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict/--no-strict", help="An inconclusive verdict fails.", show_default=False)
    ] = None,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="Exit 0 where findings would say 1; never hides a 2.")
    ] = False,
    suppress: Annotated[
        Path | None,
        typer.Option("--suppress", metavar="FILE", help="Known findings that do not count (TOML).", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Settings.  [default: nearest normfold.toml or pyproject.toml]",
            show_default=False,
        ),
    ] = None,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="List every finding and every layer.")] = False,
    debug: Debug = False,
) -> None:
    """What is wrong with the normalisation state of MODEL: mode, running statistics, epsilon, randomness.

    With --data: do the statistics fit what the model is run on, which layer is at fault, and does the preparation of the
    data explain it?

    Exit code 0: nothing at or above --fail-on; 1: something, or an inconclusive verdict with --strict; 2: usage, input or
    environment.
    """  # fmt: skip
    boundary = Format.JSON if format is CheckFormat.JSON else Format.HUMAN
    with errors("check", boundary, debug):
        import normfold
        from normfold.errors import UsageError
        from normfold.statistics.bar import Bar
        from normfold.statistics.data import DataOptions
        from normfold.statistics.settings import load_settings
        from normfold.statistics.suppressions import load_suppressions
        from normfold.statistics.with_data import DataSettings

        from . import render

        source = normfold.Source(model, trust=normfold.Trust.of(links, untrusted=untrusted, caps=cap or ()))
        settings = load_settings(config, Path.cwd())
        known = suppress or settings.suppress
        options = normfold.CheckConfig(
            thresholds=settings.thresholds,
            suppressions=() if known is None else load_suppressions(known),
            initializers=normfold.Initializers(initializers.value),
            epsilon=epsilon,
            data=data_options(batch, limit, seed, group_key, mean, std, layout, size),
            run=DataSettings(
                limits=limits(timeout, max_memory),
                attribution=_METHODS[attribution],
            ),
        )
        if data is None and options.data != DataOptions():
            raise UsageError("usage.data", "options of the data without data", hint="give --data")
        bar = Bar(settings.fail_on if fail_on is None else fail_on.value, settings.strict if strict is None else strict)
        with render.progress(boundary) as report:
            found = normfold.check(
                source, data=data, checkpoint=checkpoint, baseline=baseline, config=options, progress=report
            )
        if html is not None:
            from normfold.report.check.html import write_html

            write_html(found, html)
        render.checked(found, format.value, bar, verbose=verbose, html=html)
        code = bar.exit_code(found)
    raise typer.Exit(0 if exit_zero else code)
