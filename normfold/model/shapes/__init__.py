"""Shapes and element types, derived from graph inputs, weights and operators; asked for one value at a time.

A declared `value_info` may be stale, so nothing is taken from it: a dimension that is not proven is None. A dimension
is an int, a symbolic name (two equal names are the same number), or None. No native code runs here.
"""

from normfold.model.shapes.borders import pad_amounts, resize_scales, resize_sizes
from normfold.model.shapes.derive import Shapes
from normfold.model.shapes.dims import Dim, Dims, Hints, Known, broadcast, declared_dims, declared_type
from normfold.model.shapes.layout import node_axes, split_sizes
from normfold.model.shapes.reductions import reduce_axes

__all__ = [
    "Dim",
    "Dims",
    "Hints",
    "Known",
    "Shapes",
    "broadcast",
    "declared_dims",
    "declared_type",
    "node_axes",
    "pad_amounts",
    "reduce_axes",
    "resize_scales",
    "resize_sizes",
    "split_sizes",
]
