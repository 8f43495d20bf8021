"""Which part of a graph works channels-last, because the kernels of its norms want that."""

from normfold.surgery.layout.plan import Insertion, LayoutPlan, plan_layout
from normfold.surgery.layout.region import GroupNorm, candidate

__all__ = ["GroupNorm", "Insertion", "LayoutPlan", "candidate", "plan_layout"]
