"""What the gate makes of norm rewrites: improvements, emulated operators, and what may be refused."""

from __future__ import annotations

import pytest

from normfold import Config, Status
from normfold.gate import combine, judge_regions, options
from normfold.verification import RegionVerdict, Verification

EMULATED = {"com.microsoft.GroupNorm": 1}


def verdict(status: Status, **more: object) -> RegionVerdict:
    return RegionVerdict(("norm",), status, **more)  # type: ignore[arg-type]


def test_emulated_regions_are_counted_and_never_a_plain_pass() -> None:
    regions = [verdict(Status.PASS, execution="emulated", emulated=EMULATED)] * 12
    alone = combine(regions, None)
    assert alone.text == "PASS (emulated: com.microsoft.GroupNorm ×12 - graph surgery verified, kernel not run)"
    assert alone.level_reached == "L2 (emulated)"
    whole = combine(regions, Verification(Status.PASS, "L3", emulated_ops={"com.microsoft.GroupNorm": 12}))
    assert (whole.emulated_ops, whole.level_reached) == ({"com.microsoft.GroupNorm": 12}, "L3 (emulated)")


def test_an_improvement_is_the_verdict_of_the_whole_and_keeps_its_edit() -> None:
    regions = [verdict(Status.IMPROVED, error_before=1.0, error_after=1e-6), verdict(Status.PASS)]
    assert judge_regions(regions) == {}
    found = combine(regions, Verification(Status.PASS, "L3"))
    assert found.status is Status.IMPROVED
    assert any("on purpose" in line for line in found.evidence)
    both = combine([verdict(Status.IMPROVED, emulated=EMULATED)], None)
    assert both.text.startswith("PASS (improved; emulated: com.microsoft.GroupNorm ×1")


def test_an_improvement_that_is_not_wanted_drops_its_edit() -> None:
    assert list(judge_regions([verdict(Status.SUSPECT, reason="closer to float64")])) == ["norm"]


@pytest.mark.parametrize("status", [Status.FAIL, Status.SUSPECT, Status.INCONCLUSIVE])
def test_only_a_pass_speaks_of_emulation(status: Status) -> None:
    assert Verification(status, "L3", emulated_ops=EMULATED).text == status.value


def test_settings_reach_verification() -> None:
    found = options(Config(no_improve=True, require_native=True, target="ort-cuda"))  # type: ignore[arg-type]
    assert (found.improve, found.require_native, found.target) == (False, True, "ort-cuda")
    assert options(Config()).improve
