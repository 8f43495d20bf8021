"""What is a constant, and its value.

Initializers and `Constant` nodes are; so is everything that operators make of constants alone, here and in enclosing
scopes. An initializer that a caller may override is not, and neither is one that is stored sparsely. Arithmetic on floats
is carried in float64 without rounding in between; data movement keeps the storage type; a Cast rounds, because the model
says so. A quantised weight is a constant for the operator that reads it, and not for arithmetic on it.
"""

from normfold.model.constants.quantised import FIRST_PER_AXIS, SPAN, Dequantised
from normfold.model.constants.resolve import Constants, float64, readable, sparse_dims
from normfold.model.constants.slices import shape_part, slice_bounds, slice_index

__all__ = [
    "FIRST_PER_AXIS",
    "SPAN",
    "Constants",
    "Dequantised",
    "float64",
    "readable",
    "shape_part",
    "slice_bounds",
    "slice_index",
    "sparse_dims",
]
