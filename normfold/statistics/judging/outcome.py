"""What the mismatch does to the answers: the stored statistics against re-estimated ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from normfold.statistics.collect import Array
from normfold.statistics.exact_sums import Float64
from normfold.statistics.schema import OutcomeReport

# Below this much information, in nats, the model does not tell inputs apart whatever its statistics are.
_TELLS_NOTHING = 0.05


def class_scores(outputs: Mapping[str, Array]) -> str | None:
    """The output that looks like scores of classes, `[N, K]` with two classes or more; None if none does."""
    for name, value in outputs.items():
        if value.ndim >= 2 and value.shape[1] >= 2 and value[0].size == value.shape[1] and np.isfinite(value).any():
            return name
    return None


def outcome(stored: Mapping[str, Array], repaired: Mapping[str, Array]) -> OutcomeReport | None:
    """Compare answers to the same samples; None where the model gives no scores of classes.

    Args:
        stored, repaired: outputs `[N, …]` by name, with the statistics of the file and with re-estimated ones.
    """
    name = class_scores(repaired)
    if name is None or name not in stored:
        return None
    samples = min(len(stored[name]), len(repaired[name]))
    before, after = (np.asarray(part[name][:samples], np.float64).reshape(samples, -1) for part in (stored, repaired))
    if before.shape != after.shape:
        return None
    return OutcomeReport(
        top1_disagreement=float((before.argmax(1) != after.argmax(1)).mean()),
        information_eval=information(before),
        information_batch=information(after),
    )


def collapsed(found: OutcomeReport, limit: float) -> float | None:
    """I_eval/I_batch if it is below a limit, else None."""
    now, then = found.information_eval, found.information_batch
    if now is None or then is None or then < _TELLS_NOTHING:
        return None
    ratio = now / then
    return ratio if ratio < limit else None


def information(scores: Float64) -> float:
    """I = H(E[π]) − E[H(π)] in nats: how much the answer tells about the input."""
    finite = scores[np.isfinite(scores).all(axis=1)]
    if not len(finite):
        return 0.0
    p = _probabilities(finite)
    return max(_entropy(p.mean(axis=0)) - float(np.mean([_entropy(row) for row in p])), 0.0)


def _probabilities(scores: Float64) -> Float64:
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return scores
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Float64 = e / e.sum(axis=1, keepdims=True)
    return result


def _entropy(p: Float64) -> float:
    used = p[p > 0]
    return float(-(used * np.log(used)).sum())
