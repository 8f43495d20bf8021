"""`normfold stats`: measure in parts, merge the parts, record a baseline."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    required,
)
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
)

if TYPE_CHECKING:
    from normfold.statistics.shards import Shard

app = typer.Typer(help="Measure what stands in front of normalisations: in parts, merged, or as a baseline.",
                  no_args_is_help=True)  # fmt: skip


class Engine(StrEnum):
    """Where parts are measured."""

    LOCAL = "local"
    RAY = "ray"


Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write.", show_default=False)]


@app.command()
def collect(
    model: Model,
    data: Data = None,
    output: Output = Path("part.npz"),
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Every N-th batch, from the I-th on, counted from 1.")
    ] = "1/1",
    engine: Annotated[
        Engine, typer.Option("--engine", help="local: this process; ray: all shards over a Ray cluster.")
    ] = Engine.LOCAL,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Shards for --engine ray.")] = 2,
    address: Annotated[
        str | None, typer.Option("--address", help="Of the Ray cluster.  [default: RAY_ADDRESS, else one on this machine]",
                                 show_default=False)
    ] = None,
    batch: Batch = None, limit: Limit = None, seed: Shuffle = None, group_key: GroupKey = "", mean: Mean = "",
    std: Std = "", layout: LayoutOption = None, size: Size = "",
    initializers: Initializers = Policy.AUTO,
    timeout: Timeout = 600.0,
    max_memory: Memory = None,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:  # fmt: skip
    """Measure the moments in front of every normalisation of MODEL, on all of the data or on one part of it."""
    with errors("stats", format, debug):
        from normfold import Initializers as Policies
        from normfold import Source, Trust
        from normfold.collecting import check_output, collect_over_ray, collect_part, write_file
        from normfold.errors import UsageError
        from normfold.statistics.data.opening import files_of

        from . import render

        part = _shard(shard)
        destination = check_output(output, [model, *files_of(required(data))])
        options = data_options(batch, limit, seed, group_key, mean, std, layout, size)
        bounds = limits(timeout, max_memory)
        policy = Policies(initializers.value)
        trust = Trust.of(links, untrusted=untrusted, caps=cap or ())
        if engine is Engine.RAY:
            if part.count > 1:
                raise UsageError("usage.shard", "--engine ray deals out the shards itself", hint="leave out --shard")
            found = collect_over_ray(
                model, required(data), workers, address=address, options=options, limits=bounds, initializers=policy,
                trust=trust,
            )  # fmt: skip
        else:
            with render.progress(format) as report:
                found = collect_part(
                    Source(model, trust=trust), required(data), part, options=options, limits=bounds, initializers=policy,
                    progress=report,
                )  # fmt: skip
        render.measured(found, write_file(found.to_bytes(), destination), format)


@app.command()
def merge(
    parts: Annotated[
        list[Path], typer.Argument(help="Parts of one measurement.", metavar="PART...", show_default=False)
    ],
    output: Output = Path("merged.npz"),
    partial: Annotated[bool, typer.Option("--partial", help="Allow parts to be missing.")] = False,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:
    """Merge PARTs into one measurement. How many there are, and their order, does not change the result."""
    with errors("stats", format, debug):
        from normfold.collecting import check_output, merge_files, write_file

        from . import render

        destination = check_output(output, parts)
        found = merge_files(parts, partial=partial)
        render.measured(found, write_file(found.to_bytes(), destination), format)


@app.command()
def record(
    model: Model,
    data: Data = None,
    output: Output = Path("baseline.npz"),
    batch: Batch = None, limit: Limit = None, seed: Shuffle = None, group_key: GroupKey = "", mean: Mean = "",
    std: Std = "", layout: LayoutOption = None, size: Size = "",
    timeout: Timeout = 600.0,
    max_memory: Memory = None,
    links: FollowLinks = None,
    untrusted: Untrusted = False,
    cap: Bounds = None,
    format: FormatOption = Format.HUMAN,  # noqa: A002 - the name of the option
    debug: Debug = False,
) -> None:  # fmt: skip
    """Record what MODEL makes of data that is known to be right, for `check --baseline`; it needs no normalisation."""
    with errors("stats", format, debug):
        from normfold import Source, Trust
        from normfold.collecting import record_baseline

        from . import render

        source = Source(model, trust=Trust.of(links, untrusted=untrusted, caps=cap or ()))
        with render.progress(format) as report:
            found = record_baseline(
                source, required(data), output, options=data_options(batch, limit, seed, group_key, mean, std, layout, size),
                limits=limits(timeout, max_memory), progress=report,
            )  # fmt: skip
        render.recorded(found, format)


def _shard(text: str) -> Shard:
    """`2/8` as the second of eight.

    Raises:
        UsageError: anything else.
    """
    from normfold.errors import UsageError
    from normfold.statistics.shards import Shard

    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UsageError("usage.shard", f"--shard {text!r} is no part", hint="write 1/8 for the first of eight")
    return Shard(int(first) - 1, int(count))
