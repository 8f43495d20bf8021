"""The options that say what data is run, for the commands that run data through a model."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from normfold.statistics.data import DataOptions
    from normfold.statistics.probes.passes import Limits


class ImageLayout(StrEnum):
    """Where the channels of images are."""

    NCHW = "NCHW"
    NHWC = "NHWC"


_PANEL = "Data"

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="x.npz, x.npy, a folder of such files or of images, package.module:function, or name=x.npy for each input.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="Samples per batch.  [default: the model's, else 32]", show_default=False,
                 rich_help_panel=_PANEL),
]  # fmt: skip
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Read so many samples at most.", show_default=False, rich_help_panel=_PANEL),
]
Shuffle = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Shuffle with it.  [default: the order of the data]", show_default=False,
                 rich_help_panel=_PANEL),
]  # fmt: skip
GroupKey = Annotated[
    str,
    typer.Option("--group-key", metavar="NAME", show_default=False, rich_help_panel=_PANEL,
                 help="What belongs together (video, patient): an array of the data, or folder or file."),
]  # fmt: skip
Mean = Annotated[
    str,
    typer.Option("--mean", metavar="A,B,C", help="Of images: subtracted from 0…1.", show_default=False,
                 rich_help_panel=_PANEL),
]  # fmt: skip
Std = Annotated[
    str,
    typer.Option("--std", metavar="A,B,C", help="Of images: divided by, after that.", show_default=False,
                 rich_help_panel=_PANEL),
]  # fmt: skip
LayoutOption = Annotated[
    ImageLayout | None,
    typer.Option("--layout", help="Of images.  [default: the model's]", show_default=False, rich_help_panel=_PANEL),
]
Size = Annotated[
    str,
    typer.Option("--size", metavar="HxW", help="Of images.  [default: the model's]", show_default=False,
                 rich_help_panel=_PANEL),
]  # fmt: skip


def data_options(
    batch: int | None, limit: int | None, seed: int | None, group_key: str, mean: str, std: str,
    layout: ImageLayout | None, size: str,
) -> DataOptions:  # fmt: skip
    """As the library takes them.

    Raises:
        UsageError: a number that is none, or makes no sense.
    """
    from normfold.statistics.data import DataOptions, parse_numbers, parse_size

    return DataOptions(
        batch=batch, limit=limit, seed=seed, group_key=group_key, mean=parse_numbers(mean, "--mean"),
        std=parse_numbers(std, "--std"), layout=None if layout is None else layout.value,
        size=parse_size(size) if size else None,
    )  # fmt: skip


def limits(timeout: float, max_memory: int | None) -> Limits:
    """What the children that run data may use: seconds, and MiB as the option has it."""
    from normfold.statistics.probes.passes import Limits

    return Limits(timeout, None if max_memory is None else max_memory << 20)


def required(data: list[str] | None) -> list[str]:
    """The data of a command that can do nothing without.

    Raises:
        UsageError: there is none.
    """
    from normfold.errors import UsageError

    if data is None:
        raise UsageError("usage.data", "there is no data", hint="give --data")
    return data
