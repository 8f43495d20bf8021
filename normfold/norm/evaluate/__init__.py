"""A float64 evaluator for the few dozen operators that norms are spelled with, and for norms that are one operator."""

from normfold.norm.evaluate.call import Unknown
from normfold.norm.evaluate.evaluator import Evaluator, Plan

__all__ = ["Evaluator", "Plan", "Unknown"]
