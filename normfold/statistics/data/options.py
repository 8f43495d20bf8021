"""How data is to be read: what the command line's `--batch`, `--limit`, `--seed`, … say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from normfold.errors import UsageError

Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Settings of a data source.

    Args:
        batch: samples that go through the model together; None for what the model fixes, else 32.
        limit: read so many samples at most.
        seed: shuffle with it; None keeps the order of the data.
        group_key: what belongs together: an array or mapping key; of folders also "folder" (of an image) or "file".
        mean, std: per channel, subtracted from and divided into images of 0 to 1; () for none.
        layout: of images; None for what the model's input looks like.
        size: height and width of images; None for what the model fixes.

    Raises:
        UsageError: a number that makes no sense.
    """

    batch: int | None = None
    limit: int | None = None
    seed: int | None = None
    group_key: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Layout | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, value in (("--batch", self.batch), ("--limit", self.limit)):
            if value is not None and value < 1:
                raise UsageError("usage.data", f"{name} {value} is no number of samples", hint="give 1 or more")
        if self.seed is not None and self.seed < 0:
            raise UsageError("usage.data", f"--seed {self.seed} is negative", hint="give 0 or more")
        if any(value <= 0 for value in self.std):
            raise UsageError("usage.data", f"--std {list(self.std)} holds a number that is not positive")

    @property
    def for_images(self) -> bool:
        """Whether anything was said that only images have."""
        return bool(self.mean or self.std or self.layout or self.size)


def parse_numbers(text: str, option: str) -> tuple[float, ...]:
    """`0.485,0.456,0.406` as numbers.

    Raises:
        UsageError: anything else.
    """
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        numbers = (math.nan,)
    if not all(math.isfinite(number) for number in numbers):
        raise UsageError("usage.data", f"{option} {text!r} is no list of numbers", hint="write 0.485,0.456,0.406")
    return numbers


def parse_size(text: str) -> tuple[int, int]:
    """`224` or `HEIGHTxWIDTH` as height and width.

    Raises:
        UsageError: anything else.
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError("usage.data", f"--size {text!r} is no size", hint="write 224, or 480x640 for height x width")
    return int(parts[0]), int(parts[-1])
