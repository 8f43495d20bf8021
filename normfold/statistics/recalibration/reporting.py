"""What a repair did, as the report says it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.documents import FileReport
from normfold.statistics.recalibration.estimate import Estimated, Variance
from normfold.statistics.recalibration.gate import Judged
from normfold.statistics.recalibration.pieces import Piece
from normfold.statistics.recalibration.schema import RecalibrateReport, RepairedLayer
from normfold.statistics.sites import StatSite


def repair_report(
    piece: Piece, estimated: Estimated, judged: Judged, data: str, variance: Variance, prior: float, version: str
) -> RecalibrateReport:
    """The report of a repair that was accepted; `output` and `undo` are left to who writes them."""
    file = piece.file
    return RecalibrateReport(
        version=version,
        input=FileReport(path=str(file.path or "<ModelProto>"), sha256=file.sha256),
        data=data,
        data_sha256=estimated.sha256,
        variance=variance,
        prior=prior,
        passes=estimated.passes,
        layers=tuple(_layer(site, estimated, piece.obstacles, judged) for site in piece.subject.sites),
        gate=judged.gate,
        warnings=tuple(file.original.warnings),
    )


def _layer(site: StatSite, estimated: Estimated, obstacles: Mapping[str, str], judged: Judged) -> RepairedLayer:
    found = estimated.estimates.get(site.key)
    reason = obstacles.get(site.key) or estimated.skipped.get(site.key) or "it was not chosen"
    alive = None if found is None else found.n_eff[np.isfinite(found.n_eff) & (found.var > 0)]
    return RepairedLayer(
        node=site.label,
        key=site.key,
        status="kept" if found is None else "repaired",
        reason=reason if found is None else "",
        j_before=_finite(judged.before.get(site.label)),
        j_after=_finite(judged.after.get(site.label)),
        n=None if found is None else found.samples,
        n_eff=float(alive.min()) if alive is not None and alive.size else None,
        constant_channels=0 if found is None else int((found.var == 0).sum()),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
