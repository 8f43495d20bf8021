"""The settings of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from normfold.model.load import Initializers
from normfold.model.trust import Trust
from normfold.targets.names import Target

Array = np.ndarray[Any, np.dtype[Any]]


class VerifyLevel(StrEnum):
    """How much evidence a result needs before it may be written."""

    FULL = "full"
    REGION = "region"
    OFF = "off"


class Config(BaseModel):
    """Settings of `optimize`; every field has the default of the command line.

    Args:
        target: deployment target.
        threads: on how many threads the model will run; some targets spell norms otherwise for one. None for the default of
            the runtime, which is more than one.
        precise: write no operator whose statistics lose digits where the mean of a row dwarfs its deviation, even where it is
            the fastest: GroupNorm and SkipLayerNormalization of onnxruntime compute the variance as E[x²] - μ².
        initializers: what to do with initializers that are also graph inputs.
        verify: `full` compares every region and the whole model, `region` the regions only, `off` nothing.
        skip, only: rule codes (`NF101`) to leave out, or to use exclusively.
        aggressive: merge linear operators even where parameters or multiplications grow; the decision says what grew.
        seed: base of all random inputs.
        trials: seeded trials of the whole model.
        inputs: user data by graph input, one array or one per trial; preferred over random data.
        shapes: dims for graph inputs.
        rtol, atol: tolerances by output name, "" for all; None measures the model's own noise floor.
        strict: an inconclusive verdict is a refusal.
        no_improve: an output that moved because the rewrite is closer to float64 than the original is a refusal, too.
        require_native: a verdict that rests on an emulated operator is inconclusive.
        all_or_nothing: a failing edit refuses everything instead of being dropped.
        overlay: write only what changed, and leave the other external weights in the data files of the original.
        sync: wait until the result is on the disk before it takes its place. Without, it is as safe as a copied file: whole
            whatever happens to normfold, but perhaps not after a power cut.
        metadata: write provenance into `metadata_props`.
        manifest: write the statistics of folded normalisations beside the result, for `check` and `recalibrate`; the
            result names that file in its metadata, so there is none without.
        trust: of files that are given by their path; an open `Source` has its own.
        timeout_s: seconds that one job in the worker process may take.
        memory_limit: bytes of address space of the worker process, None for no limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    target: Target = Target.PORTABLE
    threads: int | None = Field(default=None, ge=1)
    precise: bool = False
    initializers: Initializers = Initializers.AUTO
    verify: VerifyLevel = VerifyLevel.FULL
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    aggressive: bool = False
    seed: int = 0
    trials: int = Field(default=3, ge=1, le=100)
    inputs: Mapping[str, Array | Sequence[Array]] = Field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = Field(default_factory=dict)
    rtol: Mapping[str, float] = Field(default_factory=dict)
    atol: Mapping[str, float] = Field(default_factory=dict)
    strict: bool = False
    no_improve: bool = False
    require_native: bool = False
    all_or_nothing: bool = False
    overlay: bool = False
    sync: bool = True
    metadata: bool = True
    manifest: bool = True
    trust: Trust = Trust()
    timeout_s: float = Field(default=600.0, gt=0)
    memory_limit: int | None = Field(default=None, gt=0)
