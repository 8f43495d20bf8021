"""Parts put together: order, verdict, suppressions, exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from normfold.checking import CheckConfig, check, exit_code
from normfold.documents import FileReport
from normfold.errors import UsageError
from normfold.statistics.assemble import assemble
from normfold.statistics.codes import RULES
from normfold.statistics.findings import finding
from normfold.statistics.from_file import from_file
from normfold.statistics.part import Part
from normfold.statistics.schema import ChannelReport, CheckReport, Finding, LayerReport, RuleReport, Severity, Status
from normfold.statistics.settings import load_settings
from normfold.statistics.subject import open_subject
from normfold.statistics.suppressions import Suppression, load_suppressions
from normfold.statistics.thresholds import Thresholds
from tests.check.build import changed, examine, healthy
from tests.model.build import net, node


def put_together(*parts: Part, suppressions: tuple[Suppression, ...] = ()) -> CheckReport:
    subject = open_subject(healthy())
    first = from_file(subject, Thresholds())
    file = FileReport(path="m.onnx", sha256=None)
    return assemble(subject, [first, *parts], file, Thresholds(), suppressions, "0")


def on(node: int, code: str, **options: object) -> Finding:
    site = open_subject(healthy()).sites[node]
    made = finding(code, "something is wrong", site=site)
    return made.model_copy(update=options)


def measured(node: int, **values: object) -> dict[str, LayerReport]:
    site = open_subject(healthy()).sites[node]
    return {
        site.key: LayerReport(
            node=site.label, key=site.key, op_type="BatchNormalization", position=site.position, **values
        )  # type: ignore[arg-type]
    }


def test_root_causes_come_first_and_the_worst_of_them() -> None:
    part = Part(
        findings=(
            on(4, "S13", is_root_cause=False, collateral_of="graph:1", severity=Severity.ERROR),
            on(3, "S04"),
            on(1, "S02"),
            on(0, "S02"),
            on(2, "S05", severity=Severity.INFO),
        )
    )
    report = put_together(part)
    assert [(f.code, f.node) for f in report.findings] == [
        ("S02", "bn0"), ("S02", "bn1"), ("S04", "bn3"), ("S05", "bn2"), ("S13", "bn4"),
    ]  # fmt: skip
    assert report.verdict is Status.FAIL
    assert [layer.status.value for layer in report.layers] == ["fail", "fail", "skipped", "warn", "fail", "skipped"]


def test_collateral_alone_decides_nothing() -> None:
    report = put_together(Part(findings=(on(4, "S02", is_root_cause=False),)))
    assert report.verdict is Status.PASS
    assert exit_code(report) == 0


def test_a_later_part_completes_the_layers() -> None:
    channels = ChannelReport(measured_mean=(1.0,) * 16)
    layers = measured(2, status=Status.INCONCLUSIVE, j=0.07, n=40, samples_needed=300, channels=channels)
    report = put_together(Part(layers=layers))
    layer = report.layers[2]
    assert (layer.j, layer.n, layer.channel_count) == (0.07, 40, 16)
    assert layer.channels is not None and len(layer.channels.mean) == 16 and layer.channels.measured_mean[0] == 1.0
    assert report.verdict is Status.INCONCLUSIVE
    assert "300 samples" in report.next_step
    assert (exit_code(report), exit_code(report, strict=True)) == (0, 1)


def test_every_rule_is_listed_and_says_why_it_did_not_run() -> None:
    report = put_together(
        Part(rules=(RuleReport(code="S13", status=Status.FAIL), RuleReport(code="S04", status=Status.PASS)))
    )
    assert [rule.code for rule in report.rules] == list(RULES)
    by_code = {rule.code: rule for rule in report.rules}
    assert by_code["S13"].status is Status.FAIL and by_code["S04"].status is Status.PASS
    for code in ("D01", "D02", "D03", "C01", "S14"):
        assert (by_code[code].status, by_code[code].reason) == (Status.SKIPPED, "needs data")
    assert "checkpoint" in by_code["X01"].reason


@pytest.mark.parametrize(
    ("severity", "fail_on", "code"),
    [
        ("error", "error", 1), ("warning", "error", 0), ("warning", "warning", 1), ("info", "warning", 0),
        ("info", "info", 1), ("error", "never", 0),
    ],
)  # fmt: skip
def test_the_exit_code_is_that_of_the_worst(severity: str, fail_on: str, code: int) -> None:
    report = put_together(Part(findings=(on(0, "S02", severity=Severity(severity)),)))
    assert exit_code(report, fail_on=fail_on) == code


def test_what_is_suppressed_does_not_count() -> None:
    model = changed(lambda values: values["v2"].__setitem__(0, -1.0))
    entries = (Suppression(code="S03", node="bn?", reason="known"), Suppression(code="M01", reason="never used"))
    report = check(model, config=CheckConfig(suppressions=entries))
    assert [(f.code, f.suppressed) for f in report.findings] == [("S03", "known")]
    assert report.verdict == "pass" and exit_code(report) == 0
    assert report.layers[2].status == "skipped"
    assert [item.used for item in report.suppressions] == [1, 0]
    other = check(model, config=CheckConfig(suppressions=(Suppression(code="S03", node="bn3", reason="no"),)))
    assert other.verdict == "fail"


def test_a_name_with_brackets_means_itself() -> None:
    found = on(0, "S02").model_copy(update={"node": "layer[0]/bn"})
    assert Suppression(code="S02", node="layer[0]/bn", reason="r").covers(found)
    assert not Suppression(code="S03", node="*", reason="r").covers(found)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_suppressions_file(tmp_path: Path) -> None:
    path = written(tmp_path, "s.toml", '[[suppress]]\ncode = "M01"\nreason = "wanted"\n')
    assert load_suppressions(path) == (Suppression(code="M01", reason="wanted"),)


MISTAKES = [
    ('[[suppress]]\ncode = "M99"\nreason = "x"\n', "M99"),
    ('[[suppress]]\ncode = "M01"\n', "reason"),
    ('[[suppress]]\ncode = "M01"\nreason = ""\n', "reason"),
    ('[[suppress]]\ncode = "M01"\nreason = "x"\nnodes = "bn"\n', "did you mean 'node'"),
    ('[[supress]]\ncode = "M01"\n', "did you mean 'suppress'"),
    ("[[suppress]\n", "TOML"),
]


@pytest.mark.parametrize(("text", "part"), MISTAKES)
def test_mistakes_in_a_suppressions_file_are_one_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(UsageError) as error:
        load_suppressions(written(tmp_path, "s.toml", text))
    assert part in str(error.value) and "\n" not in str(error.value) and "s.toml" in str(error.value)


# --- settings ---


def test_settings_come_from_the_nearest_file(tmp_path: Path) -> None:
    assert load_settings(None, tmp_path).fail_on == "error"
    written(tmp_path, "pyproject.toml", '[tool.normfold.check]\nfail-on = "warning"\nsuppress = "s.toml"\n')
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    written(tmp_path / "a", "pyproject.toml", "[project]\nname = 'x'\n")
    found = load_settings(None, inner)
    assert (found.fail_on, found.suppress) == ("warning", tmp_path / "s.toml")
    written(inner, "normfold.toml", "[check]\nstrict = true\n[check.thresholds]\nj_fail = 0.5\n")
    nearest = load_settings(None, inner)
    assert (nearest.strict, nearest.thresholds.j_fail, nearest.fail_on) == (True, 0.5, "error")


BAD = [
    ("[check]\nfail_onn = 'error'\n", "did you mean"),
    ("[chekc]\n", "did you mean 'check'"),
    ("[check.thresholds]\nj_fial = 0.5\n", "did you mean 'j_fail'"),
    ("[check.thresholds]\nj_fail = 'many'\n", "check.thresholds.j_fail"),
    ("[check.thresholds]\nj_fail = nan\n", "check.thresholds.j_fail"),
    ("[check.thresholds]\nj_warn = 0.9\n", "j_warn = 0.9 lies above j_fail"),
    ("[check]\nfail-on = 'fatal'\n", "fail-on"),
    ("check = 3\n", "no table"),
]


@pytest.mark.parametrize(("text", "part"), BAD)
def test_mistakes_in_the_settings_are_one_line(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(UsageError) as error:
        load_settings(written(tmp_path, "normfold.toml", text), tmp_path)
    assert part in str(error.value) and "\n" not in str(error.value)
    assert error.value.code.startswith("config.")


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_settings(tmp_path / "none.toml", tmp_path)


# --- the document ---


def test_the_document_reads_back() -> None:
    report = examine(changed(lambda values: values["v2"].__setitem__(0, np.nan)))
    text = report.model_dump_json()
    assert CheckReport.model_validate_json(text) == report
    assert "NaN," not in text and "Infinity" not in text


def test_the_same_model_gives_the_same_report() -> None:
    assert examine(healthy()).model_dump_json() == examine(healthy()).model_dump_json()


def test_what_the_file_suggests_is_an_error_where_the_data_says_so() -> None:
    """A variance of 1 everywhere is a warning from the file alone; a layer that fails must not leave the exit code 0."""
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    norm = node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], name="bn")
    model = net([norm], {"x": ("N", 3, 4, 4)}, ["y"], {"g": ones, "b": zeros, "m": zeros + 0.1, "v": ones})
    x = np.random.default_rng(0).normal(0.1, 1, (256, 3, 4, 4)).astype(np.float32)
    fits, fails = (check(model, data={"x": x * factor}) for factor in (1, 3))
    for report, verdict in ((check(model), Status.WARN), (fits, Status.WARN), (fails, Status.FAIL)):
        assert report.findings[0].code == "S07" and report.verdict is verdict
    assert exit_code(fails, fail_on="error", strict=False) == 1 and "J is " in fails.findings[0].message
