"""Data for `check` and `recalibrate`: files, folders, images and Python functions as batches of samples."""

from normfold.statistics.data.opening import open_data
from normfold.statistics.data.options import DataOptions, parse_numbers, parse_size

__all__ = ["DataOptions", "open_data", "parse_numbers", "parse_size"]
