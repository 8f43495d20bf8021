"""`normfold check`: exit codes, streams, formats, settings, suppressions, the page."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from cli import check
from normfold.statistics.codes import RULES
from normfold.statistics.schema import Severity
from tests.check.build import changed, healthy
from tests.cli.test_cli import Runner, normfold  # noqa: F401 - a fixture
from tests.model.build import net, node


def save(folder: Path, name: str, model: object) -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())  # type: ignore[attr-defined]
    return path


@pytest.fixture
def fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save(tmp_path, "fine.onnx", healthy())


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Never updated in one layer, an odd epsilon in another."""
    monkeypatch.chdir(tmp_path)

    def change(values: dict[str, np.ndarray]) -> None:
        values["m2"][:], values["v2"][:] = 0, 1

    return save(tmp_path, "broken.onnx", changed(change, epsilon={4: 1e-3}))


def test_a_healthy_model(normfold: Runner, fine: Path) -> None:  # noqa: F811
    done = normfold("check", fine)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0].startswith("PASS") and "next:" in done.out


def test_a_broken_model_says_what_and_what_to_do(normfold: Runner, broken: Path) -> None:  # noqa: F811
    done = normfold("check", broken)
    assert done.code == 1
    first, *rest = done.out.splitlines()
    assert first.startswith("FAIL") and "S01" in first and "bn2" in first
    assert any(line.startswith("error S01 bn2:") for line in rest)
    assert any("→ Load the right checkpoint" in line for line in rest)
    assert any(line.startswith("warning S06") for line in rest)
    assert any(line.startswith("bn2 ") and "fail" in line for line in rest)
    assert not any(line.startswith("bn3 ") for line in rest)
    assert any(line.startswith("bn3 ") for line in normfold("check", broken, "-v").out.splitlines())


def test_exit_codes(normfold: Runner, fine: Path, broken: Path, tmp_path: Path) -> None:  # noqa: F811
    assert normfold("check", broken, "--exit-zero").code == 0
    assert normfold("check", broken, "--fail-on", "never").code == 0
    assert normfold("check", fine, "--fail-on", "info", "--strict").code == 0
    warned = save(tmp_path, "warned.onnx", healthy(epsilon={4: 1e-3}))
    assert normfold("check", warned).code == 0
    assert normfold("check", warned, "--fail-on", "warning").code == 1
    missing = normfold("check", tmp_path / "none.onnx", "--exit-zero")
    assert missing.code == 2 and missing.err.startswith("normfold: ") and missing.out == ""


def test_no_statistics_are_inconclusive(normfold: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from tests.support import build

    monkeypatch.chdir(tmp_path)
    init = {"w": np.ones((4, 3, 1, 1), np.float32)}
    path = save(tmp_path, "conv.onnx", build("y = Conv(x, w)", "float[N,3,8,8] x", "y", init))
    done = normfold("check", path)
    assert done.code == 0 and done.out.startswith("INCONCLUSIVE")
    assert normfold("check", path, "--strict").code == 1


def test_json(normfold: Runner, broken: Path) -> None:  # noqa: F811
    done = normfold("check", broken, "--format", "json")
    document = done.document
    assert (done.code, document["command"], document["schema_version"]) == (1, "check", "1.0")
    assert document["verdict"] == "fail" and document["error"] is None
    assert [f["code"] for f in document["findings"]] == ["S01", "S06"]
    assert {"code", "severity", "node", "message", "fix"} <= document["findings"][0].keys()
    assert {"node", "status", "j", "mean_shift", "variance_ratio", "n", "n_eff"} <= document["layers"][0].keys()
    assert len(document["input"]["sha256"]) == 64
    failed = normfold("check", broken.with_name("none.onnx"), "--format", "json")
    assert failed.code == 2 and failed.document["error"]["code"] and failed.document["verdict"] is None


def test_the_json_document_has_a_schema(normfold: Runner, broken: Path) -> None:  # noqa: F811
    from normfold.statistics.schema import CheckReport

    assert normfold("schema", "check").document == CheckReport.model_json_schema()
    CheckReport.model_validate(normfold("check", broken, "--format", "json").document)


def test_formats_for_pipelines(normfold: Runner, broken: Path) -> None:  # noqa: F811
    for form in ("sarif", "junit", "github"):
        done = normfold("check", broken, "--format", form)
        assert (done.code, done.err) == (1, "")
        if form == "sarif":
            assert json.loads(done.out)["runs"][0]["results"][0]["ruleId"] == "S01"
        elif form == "junit":
            assert ElementTree.fromstring(done.out)[0].get("failures") == "1"
        else:
            assert done.out.startswith("::error file=")
    strict = normfold("check", broken, "--format", "junit", "--fail-on", "warning")
    assert ElementTree.fromstring(strict.out)[0].get("failures") == "2"


def test_a_verdict_that_only_strict_refuses_is_shown_as_a_failure(normfold: Runner, tmp_path: Path) -> None:  # noqa: F811
    weights = {"w": np.ones((2, 3, 1, 1), np.float32)}
    model = save(tmp_path, "folded.onnx", net([node("Conv", ["x", "w"], ["y"])], {"x": ["N", 3, 4, 4]}, ["y"], weights))
    assert normfold("check", model, "--format", "junit").code == 0
    done = normfold("check", model, "--format", "junit", "--strict")
    assert done.code == 1 and ElementTree.fromstring(done.out)[0].get("failures") == "1"
    done = normfold("check", model, "--format", "sarif", "--strict")
    assert done.code == 1 and json.loads(done.out)["runs"][0]["invocations"][0]["exitCode"] == 1
    done = normfold("check", model, "--format", "github", "--strict")
    assert done.code == 1 and done.out.startswith("::notice ") and "\n::error " in done.out


def test_the_summary_of_a_github_job(normfold: Runner, broken: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    page = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    assert normfold("check", broken).code == 1 and not page.exists()
    done = normfold("check", broken, "--format", "github")
    assert (done.code, done.err) == (1, "") and page.read_text("utf-8").startswith("### normfold check of ")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary.md"))
    lost = normfold("check", broken, "--format", "github")
    assert lost.code == 1 and lost.out == done.out and "GITHUB_STEP_SUMMARY cannot be written" in lost.err


def test_the_page(normfold: Runner, broken: Path, tmp_path: Path) -> None:  # noqa: F811
    done = normfold("check", broken, "--html", tmp_path / "r.html")
    assert done.code == 1 and "r.html" in done.out
    assert "S01" in (tmp_path / "r.html").read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.onnx", "r.html"]
    lost = normfold("check", broken, "--html", tmp_path / "none" / "r.html")
    assert (lost.code, lost.out) == (2, "") and "none: there is no such directory" in lost.err


def test_known_findings_do_not_count(normfold: Runner, broken: Path, tmp_path: Path) -> None:  # noqa: F811
    known = tmp_path / "known.toml"
    known.write_text('[[suppress]]\ncode = "S01"\nnode = "bn2"\nreason = "a frozen layer"\n')
    done = normfold("check", broken, "--suppress", known)
    assert done.code == 0 and done.out.startswith("WARN") and "a frozen layer" in done.out
    known.write_text('[[suppress]]\ncode = "S01"\n')
    wrong = normfold("check", broken, "--suppress", known, "--exit-zero")
    assert wrong.code == 2 and "reason" in wrong.err


def test_settings_and_what_overrules_them(normfold: Runner, broken: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "normfold.toml").write_text('[check]\nfail-on = "never"\n')
    assert normfold("check", broken).code == 0
    assert normfold("check", broken, "--fail-on", "error").code == 1
    other = tmp_path / "other.toml"
    other.write_text("[check.thresholds]\ngain = 0.01\n")
    done = normfold("check", broken, "--config", other, "--format", "json")
    assert "S04" in {f["code"] for f in done.document["findings"]}
    assert done.document["thresholds"]["gain"] == 0.01
    other.write_text("[check.thresholds]\ngian = 1\n")
    wrong = normfold("check", broken, "--config", other)
    assert wrong.code == 2 and "did you mean 'gain'" in wrong.err


def test_the_page_of_a_finding(normfold: Runner) -> None:  # noqa: F811
    assert "never" in normfold("rule", "S01").out
    listed = normfold("rule").out
    assert all(code in listed for code in RULES) and "NF101" in listed


def test_names_are_harmless_on_a_terminal(normfold: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.chdir(tmp_path)
    model = changed(lambda values: values["v2"].__setitem__(0, -1.0))
    next(node for node in model.graph.node if node.name == "bn2").name = "\x1b[31m[bold]evil[/bold]\nx"
    done = normfold("check", save(tmp_path, "evil.onnx", model))
    assert "\x1b" not in done.out and "[bold]evil" in done.out


def test_severities_are_those_of_the_library() -> None:
    assert [item.value for item in check.FailOn] == [*(item.value for item in Severity), "never"]
