"""Norms in a model: which become what on the target, and the model in which they are that."""

from normfold.surgery.norms.across import plan_norms_across
from normfold.surgery.norms.edits import NormEdit, NormPlan
from normfold.surgery.norms.layout import TurnEdit
from normfold.surgery.norms.planning import plan_norms
from normfold.surgery.norms.survey import Surveyed, survey

__all__ = ["NormEdit", "NormPlan", "Surveyed", "TurnEdit", "plan_norms", "plan_norms_across", "survey"]
