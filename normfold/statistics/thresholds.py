"""Every number that a verdict of `check` hangs on.

Consumed by all examiners; produced from `[tool.normfold.check]` or `normfold.toml` by `normfold.statistics.settings`. All
of them are provisional in that they were set on synthetic networks; the report repeats those that were used.
"""

from __future__ import annotations

from pydantic import ConfigDict, Field, model_validator

from normfold.documents import DocumentValue


class Thresholds(DocumentValue):
    """Limits, by what they limit. `*_warn` and `*_fail` are the lower ends of the two bands."""

    model_config = ConfigDict(allow_inf_nan=False)  # what the base class says stays

    # --- stored statistics, from the file ---
    gain: float = Field(default=100.0, gt=0, description="S04: |γ|/√(v+ε) above this is an exploding channel")
    dead_epsilon: float = Field(default=0.1, gt=0, description="S04: v below this share of ε is a dead channel")
    dead_gamma: float = Field(
        default=1e-3, ge=0, description="γ at or below this share of the median |γ| does not matter"
    )
    epsilon_dominated: float = Field(default=10.0, gt=0, description="S06: v below this many ε is ruled by ε")
    epsilon_dominated_share: float = Field(
        default=0.5, ge=0, le=1, description="S06: share of such channels that is reported"
    )
    half_largest: float = Field(default=65504.0, gt=0, description="S05: largest number of float16")
    half_smallest: float = Field(default=6e-8, ge=0, description="S05: below this float16 stores 0")
    momentum: float = Field(
        default=0.5, gt=0, lt=1, description="S11: weight of the old value below this looks swapped"
    )

    # --- data-free predictor ---
    predictor_correlation: float = Field(
        default=0.3, description="S13, S09: a layer below this is not explained by its weights"
    )
    predictor_healthy: float = Field(default=0.8, description="S13: median correlation of a model whose statistics fit")
    predictor_clear: float = Field(
        default=0.9, ge=0, le=1, description="S13: share of the other layers that must be healthy before one is blamed"
    )
    predictor_slope_low: float = Field(default=0.8, gt=0, description="S10: common slope below this")
    predictor_slope_high: float = Field(default=1.25, gt=0, description="S10: common slope above this")
    predictor_slope_spread: float = Field(default=0.1, gt=0, description="S10: median deviation of a common slope")
    predictor_channels: int = Field(default=8, ge=3, description="a layer with fewer channels is not judged")
    predictor_layers: int = Field(default=3, ge=2, description="a model with fewer judged layers is not judged")

    # --- effect sizes, with data ---
    j_warn: float = Field(default=0.10, gt=0, description="J of a layer")
    j_fail: float = Field(default=0.25, gt=0)
    mean_shift_warn: float = Field(default=0.1, gt=0, description="d of a layer, in standard deviations")
    mean_shift_fail: float = Field(default=0.5, gt=0)
    log_std_ratio_warn: float = Field(default=0.10, gt=0, description="|ρ| of a layer")
    log_std_ratio_fail: float = Field(default=0.35, gt=0)
    bad_channels_warn: float = Field(
        default=0.05, ge=0, le=1, description="share of channels with J ≥ j_fail and significant"
    )
    bad_channels_fail: float = Field(default=0.30, ge=0, le=1)
    top1_warn: float = Field(
        default=0.01, ge=0, le=1, description="top-1 disagreement, stored against re-estimated statistics"
    )
    top1_fail: float = Field(default=0.05, ge=0, le=1)
    information_warn: float = Field(default=0.7, ge=0, le=1, description="C01: I_eval / I_batch below this")
    information_fail: float = Field(default=0.3, ge=0, le=1)

    # --- uncertainty ---
    false_discovery_rate: float = Field(default=0.01, gt=0, lt=1, description="q of Benjamini-Hochberg")
    equivalence_mean: float = Field(default=0.1, gt=0, description="PASS: the interval of the shift lies inside ± this")
    equivalence_log_std: float = Field(default=0.10, gt=0, description="PASS: the interval of ρ lies inside ± this")
    equivalence_share: float = Field(
        default=0.9,
        gt=0.5,
        le=1,
        description="PASS: so much of the γ² of a layer must be in channels that are equivalent",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of every interval")
    independent_samples: float = Field(default=50.0, gt=0, description="recalibration is refused below this n_eff")

    # --- data and outcome ---
    shuffling: float = Field(default=2.0, gt=1, description="D03: smallest limit of R")
    shuffling_sigmas: float = Field(default=3.0, gt=0, description="D03: R > max(shuffling, 1 + this·√(2/(b−1)))")
    hypothesis_ratio: float = Field(default=3.0, gt=1, description="D01: how much better the winner must be")
    scale_spread: float = Field(default=0.1, gt=0, description="D01: median deviation of a global scale")
    dead_relu: float = Field(default=0.95, gt=0, le=1, description="share of zeros of a dead activation")

    @model_validator(mode="after")
    def _bands_are_in_order(self) -> Thresholds:
        for low, high in _BANDS:
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} = {getattr(self, low):g} lies above {high} = {getattr(self, high):g}")
        return self


_BANDS = (
    ("j_warn", "j_fail"),
    ("mean_shift_warn", "mean_shift_fail"),
    ("log_std_ratio_warn", "log_std_ratio_fail"),
    ("bad_channels_warn", "bad_channels_fail"),
    ("top1_warn", "top1_fail"),
    ("information_fail", "information_warn"),
    ("predictor_slope_low", "predictor_slope_high"),
    ("predictor_correlation", "predictor_healthy"),
)
