"""`normfold recalibrate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .boundary import errors
from .data_options import Batch, Data, GroupKey, LayoutOption, Limit, Mean, Shuffle, Size, Std, data_options, limits
from .options import (
    Bounds,
    Debug,
    FollowLinks,
    Format,
    FormatOption,
    Initializers,
    Memory,
    Model,
    Policy,
    Timeout,
    Untrusted,
    repeatable,
)


class Variance(StrEnum):
    """What is stored."""

    POPULATION = "population"
    UNBIASED = "unbiased"


def recalibrate(
    model: Model,
    data: Data = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where to write.  [default: MODEL.recalibrated.onnx]", show_default=False),
    ] = None,
    undo: Annotated[
        Path | None,
        typer.Option("--undo", metavar="PATCH", help="Go back: MODEL as it was before.", show_default=False),
    ] = None,
    batch: Batch = None,
    limit: Limit = None,
    seed: Shuffle = None,
    group_key: GroupKey = "",
    mean: Mean = "",
    std: Std = "",
    layout: LayoutOption = None,
    size: Size = "",
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE.npy",
            help="Class of each sample, in the order of the data: right answers must not become fewer.",
            show_default=False,
        ),
    ] = None,
    variance: Annotated[
        Variance, typer.Option("--variance", help="population: of the values; unbiased: n/(n-1) times it, as PyTorch.")
    ] = Variance.POPULATION,
    prior: Annotated[
        float, typer.Option("--prior", min=0, help="Weight of the stored statistics, in samples; 0 replaces them.")
    ] = 0.0,
    only: Annotated[list[str] | None, repeatable("--only", "NODE", "Repair this normalisation only.")] = None,
    min_gain: Annotated[
        float, typer.Option("--min-gain", min=0, help="Smallest drop of J of the worst layer that is worth it.")
    ] = 0.01,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate and judge, write nothing.")] = False,
    in_place: Annotated[bool, typer.Option("--in-place", help="Allow the output to be the input.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file of the default name that normfold did not write.")
    ] = False,
    initializers: Initializers = Policy.AUTO,
    timeout: Timeout = 600.0,
    max_memory: Memory = None,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """Estimate the running statistics of MODEL anew on --data, and write it if that helps on data that was held out.

    Writes the model and a small patch, MODEL.undo.npz, that --undo turns it back with. Exit code 0: written; 1: it does
    not help, nothing was written; 2: usage, input or environment.
    """  # fmt: skip
    with errors("recalibrate", format, debug):
        from normfold.errors import UsageError

        if (data is None) is (undo is None):
            raise UsageError("usage.data", "--data or --undo, one of them", hint="normfold recalibrate --help")
        if labels is not None and seed is not None:
            raise UsageError("usage.data", "--labels are in the order of the data, which --seed changes")
        destination = output or (model if in_place else model.with_name(f"{model.stem}.recalibrated.onnx"))
        overwrite = output is not None or force or in_place
        if undo is not None:
            _undo(model, undo, output or (model if in_place else None), format, in_place=in_place)
            return
        from normfold import Initializers as Policies
        from normfold import Source, Trust
        from normfold.recalibration import RecalibrateConfig
        from normfold.recalibration import recalibrate as run
        from normfold.statistics.data.arrays import load_array

        from . import render

        config = RecalibrateConfig(
            variance=variance.value,
            prior=prior,
            only=tuple(only or ()),
            min_gain=min_gain,
            data=data_options(batch, limit, seed, group_key, mean, std, layout, size),
            limits=limits(timeout, max_memory),
            initializers=Policies(initializers.value),
        )
        assert data is not None
        source = Source(model, trust=Trust.of(links, untrusted=untrusted, caps=cap or ()))
        with render.progress(format) as report:
            done = run(
                source, None if dry_run else destination, data=data,
                labels=None if labels is None else load_array(labels), config=config, in_place=in_place,
                overwrite=overwrite, progress=report,
            )  # fmt: skip
        render.recalibrated(done.report, format)


def _undo(model: Path, patch: Path, output: Path | None, form: Format, *, in_place: bool) -> None:
    from normfold import __version__
    from normfold.documents import FileReport
    from normfold.errors import UsageError
    from normfold.statistics.recalibration.schema import RecalibrateReport
    from normfold.undoing import undo

    from . import render

    if output is None:
        raise UsageError("usage.output", "where to?", hint="give -o, or --in-place")
    written = undo(model, patch, output, in_place=in_place)
    render.recalibrated(
        RecalibrateReport(
            version=__version__,
            status="restored",
            input=FileReport(path=str(model), sha256=None),
            output=FileReport(path=str(written), sha256=None),
        ),
        form,
    )
