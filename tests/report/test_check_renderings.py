"""SARIF, JUnit, GitHub annotations and the page: complete, well formed, and deaf to what names want to be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from normfold.checking import exit_code
from normfold.documents import FileReport
from normfold.errors import OutputError
from normfold.report.check.charts import histogram, scatter
from normfold.report.check.github import github
from normfold.report.check.html import html, write_html
from normfold.report.check.junit import junit
from normfold.report.check.markdown import append_summary, markdown
from normfold.report.check.sarif import sarif
from normfold.statistics.bar import Bar
from normfold.statistics.codes import RULES
from normfold.statistics.schema import (
    ChannelReport,
    CheckReport,
    DataReport,
    Evidence,
    Finding,
    HypothesisReport,
    LayerReport,
    PreprocessingReport,
    ProbeReport,
    Severity,
    Status,
)
from tests.check.build import changed, examine, healthy

HOSTILE = "a|b`c`</title><script>alert(1)</script>\"'{{ 7*7 }}&\n::error::x\x07\x1b[31m"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def broken() -> CheckReport:
    def change(values: dict[str, np.ndarray]) -> None:
        values["v2"][0], values["v4"][3] = -1.0, 1e-8

    return examine(changed(change))


def hostile() -> CheckReport:
    model = healthy()
    node = next(node for node in model.graph.node if node.name == "bn2")
    node.name = HOSTILE
    next(tensor for tensor in model.graph.initializer if tensor.name == "v2").raw_data = np.full(
        16, -1, np.float32
    ).tobytes()
    return examine(model).model_copy(update={"input": FileReport(path=HOSTILE, sha256=None)})


def with_data() -> CheckReport:
    """What a run with data would say: a root cause with two layers behind it."""
    report = examine(healthy())
    rng = np.random.default_rng(0)
    layers = []
    for layer in report.layers:
        assert layer.channels is not None
        shift = {2: 1.0, 3: 0.4, 4: 0.2}.get(layer.position, 0.01)
        mean = tuple((m or 0) + shift * rng.normal() for m in layer.channels.mean)
        var = tuple((v or 0) * np.exp(shift * rng.normal()) for v in layer.channels.var)
        cause = layer.position == 2
        behind = report.layers[2].key if layer.position in (3, 4) else None
        values = {
            "status": Status.FAIL if cause else Status.WARN if behind else Status.PASS, "j": shift**2, "n": 256,
            "mean_shift": shift, "variance_ratio": 1 + shift, "is_root_cause": cause, "collateral_of": behind, "n_eff": 900.0,
            "channels": layer.channels.model_copy(update={"measured_mean": mean, "measured_var": var}),
        }  # fmt: skip
        layers.append(layer.model_copy(update=values))
    finding = Finding(
        code="S13", severity=Severity.ERROR, node="bn2", key=layers[2].key, message="J is 1.0", fix="Restore them.",
        evidence=(Evidence(name="J", value=1.0, threshold=0.25, interval=(0.9, 1.1), n=256, n_eff=900.0),),
    )  # fmt: skip
    update = {
        "layers": tuple(layers), "findings": (finding,), "verdict": Status.FAIL,
        "summary": "Statistics of another layer (S13): bn2: J is 1.0.", "next_step": "Restore them.",
        "data": DataReport(source="x.npz", samples=256, batches=8, batch_size=32),
        "probes": (ProbeReport(name="determinism", status=Status.PASS),),
        "preprocessing": PreprocessingReport(
            status=Status.WARN, winner="/255", hypotheses=(HypothesisReport(name="/255", score=0.01),),
            not_identifiable=("channel order",),
        ),
    }  # fmt: skip
    return report.model_copy(update=update)


def undecided() -> CheckReport:
    """Nothing is wrong, and one layer of six could not be decided."""
    report = examine(healthy())
    layers = [
        layer.model_copy(update={"status": Status.INCONCLUSIVE if layer.node == "bn3" else Status.PASS})
        for layer in report.layers
    ]
    update = {"layers": tuple(layers), "verdict": Status.INCONCLUSIVE, "summary": "1 of 6 could not be decided."}
    return report.model_copy(update=update)


def test_sarif_names_rule_level_and_place() -> None:
    document = json.loads(sarif(broken()))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert re.fullmatch(r"[0-9a-f]{32}", result["partialFingerprints"]["normfold/v1"])
    first = run["results"][0]
    assert (first["ruleId"], first["level"]) == ("S03", "error")
    assert first["locations"][0]["logicalLocations"][0]["name"] == "bn2"
    assert {rule["defaultConfiguration"]["level"] for rule in rules} <= {"error", "warning", "note"}


# Of the schema of SARIF 2.1.0, what concerns the objects that are written: what each must have, and what it may have.
SARIF = {
    "log": ({"version", "runs"}, {"$schema"}),
    "run": ({"tool"}, {"results", "invocations", "columnKind"}),
    "driver": ({"name"}, {"semanticVersion", "rules"}),
    "rule": ({"id"}, {"name", "shortDescription", "fullDescription", "help", "defaultConfiguration"}),
    "result": (
        {"message"},
        {"ruleId", "ruleIndex", "level", "locations", "partialFingerprints", "properties", "suppressions"},
    ),
    "location": (set(), {"physicalLocation", "logicalLocations"}),
    "physical": (set(), {"artifactLocation", "region"}),
    "logical": (set(), {"name", "fullyQualifiedName", "kind"}),
    "invocation": (
        {"executionSuccessful"}, {"exitCode", "exitCodeDescription", "toolExecutionNotifications"}
    ),
    "notification": ({"message"}, {"level"}),
}  # fmt: skip
LEVELS = {"none", "note", "warning", "error"}


def conforms(document: dict[str, Any]) -> None:
    """Fails where a SARIF 2.1.0 validator would."""

    def check(kind: str, item: dict[str, Any]) -> None:
        needed, allowed = SARIF[kind]
        assert needed <= item.keys() <= needed | allowed, kind

    def text(item: dict[str, Any]) -> None:
        assert item.keys() == {"text"} and isinstance(item["text"], str)

    check("log", document)
    assert document["version"] == "2.1.0" and document["$schema"].startswith("https://")
    for run in document["runs"]:
        check("run", run)
        driver = run["tool"]["driver"]
        check("driver", driver)
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", driver["semanticVersion"])
        ids = [rule["id"] for rule in driver["rules"]]
        assert len(set(ids)) == len(ids)
        for rule in driver["rules"]:
            check("rule", rule)
            assert rule["defaultConfiguration"]["level"] in LEVELS
            for part in ("shortDescription", "fullDescription", "help"):
                text(rule[part])
        for result in run["results"]:
            check("result", result)
            text(result["message"])
            assert result["level"] in LEVELS and ids[result["ruleIndex"]] == result["ruleId"]
            for location in result["locations"]:
                check("location", location)
                check("physical", location["physicalLocation"])
                uri = location["physicalLocation"]["artifactLocation"]["uri"]
                assert re.fullmatch(r"[A-Za-z0-9\-._~/%]*", uri), "no URI reference"
                assert location["physicalLocation"]["region"]["startLine"] >= 1
                for logical in location.get("logicalLocations", ()):
                    check("logical", logical)
            assert all(item["kind"] in ("external", "inSource") for item in result.get("suppressions", ()))
        for invocation in run["invocations"]:
            check("invocation", invocation)
            for note in invocation["toolExecutionNotifications"]:
                check("notification", note)
                text(note["message"])
                assert note["level"] in LEVELS


@pytest.mark.parametrize("make", [broken, hostile, with_data, undecided])
def test_sarif_is_what_its_schema_wants(make: Callable[[], CheckReport]) -> None:
    report = make()
    for bar in (Bar(), Bar("info"), Bar(strict=True)):
        conforms(json.loads(sarif(report, bar)))
    noisy = report.model_copy(update={"warnings": ("the model declares two opsets",)})
    conforms(json.loads(sarif(noisy)))


def test_findings_at_one_place_are_told_apart() -> None:
    report = broken()
    twice = report.model_copy(update={"findings": (report.findings[0], report.findings[0], *report.findings[1:])})
    results = json.loads(sarif(twice))["runs"][0]["results"]
    assert len({result["partialFingerprints"]["normfold/v1"] for result in results}) == len(results)
    first = json.loads(sarif(report))["runs"][0]["results"][0]
    assert first["partialFingerprints"] == results[0]["partialFingerprints"]


def test_sarif_carries_suppressions() -> None:
    report = broken()
    quiet = report.model_copy(update={"findings": (report.findings[0].model_copy(update={"suppressed": "known"}),)})
    document = json.loads(sarif(quiet))
    conforms(document)
    (result,) = document["runs"][0]["results"]
    assert result["suppressions"] == [{"kind": "external", "justification": "known"}]


def test_junit_has_one_case_for_each_rule_and_one_for_the_verdict() -> None:
    suite = ElementTree.fromstring(junit(broken()))[0]
    assert len(suite) == len(RULES) + 1 == int(suite.get("tests", 0))
    failed = [case.get("name", "")[:3] for case in suite if case.find("failure") is not None]
    assert failed == ["S03"] and suite.get("failures") == "1"
    assert int(suite.get("skipped", 0)) > 3
    assert "bn4" in (
        next(case for case in suite if case.get("name", "").startswith("S04")).findtext("system-out") or ""
    )
    strict = ElementTree.fromstring(junit(broken(), Bar("warning")))[0]
    assert int(strict.get("failures", 0)) > 1
    assert ElementTree.fromstring(junit(broken(), Bar("never")))[0].get("failures") == "0"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("fail_on", ["error", "warning", "info", "never"])
@pytest.mark.parametrize("make", [broken, with_data, undecided, lambda: examine(healthy())])
def test_what_a_pipeline_shows_agrees_with_the_exit_code(
    make: Callable[[], CheckReport], fail_on: str, strict: bool
) -> None:
    report, bar = make(), Bar(fail_on, strict)
    code = exit_code(report, fail_on=fail_on, strict=strict)
    suite = ElementTree.fromstring(junit(report, bar))[0]
    assert (int(suite.get("failures", 0)) > 0) is bool(code)
    (invocation,) = json.loads(sarif(report, bar))["runs"][0]["invocations"]
    assert invocation["exitCode"] == code and invocation["executionSuccessful"] is True
    assert ("normfold check: failed: " in github(report, bar)) is bool(code)
    assert ("**Failed**" in markdown(report, bar)) is bool(code)


def test_what_could_not_be_decided_fails_only_where_that_is_wanted() -> None:
    report, strict = undecided(), Bar(strict=True)
    for bar, level in ((Bar(), "note"), (strict, "error")):
        (run,) = json.loads(sarif(report, bar))["runs"]
        (note,) = run["invocations"][0]["toolExecutionNotifications"]
        assert note["level"] == level and "could not be decided" in note["message"]["text"]
    suite = ElementTree.fromstring(junit(report, strict))[0]
    (failed,) = [case for case in suite if case.find("failure") is not None]
    assert failed.get("name") == "verdict"
    assert "could not be decided" in (failed.find("failure").get("message") or "")
    lines = github(report, strict).splitlines()
    assert [line for line in lines if line.startswith("::error file=<ModelProto>,title=inconclusive::")]
    assert lines[-1] == "normfold check: failed: 1 layer could not be decided, which --strict does not let pass"
    assert "::error" not in github(report)


def test_github_annotations() -> None:
    lines = github(broken()).splitlines()
    assert lines[0].startswith("::error file=<ModelProto>,title=S03 negative variance::bn2: ")
    assert lines[-2].startswith("normfold check: fail: ")
    assert lines[-1] == "normfold check: failed: 1 finding at or above error"


def test_the_summary_of_a_job_has_the_worst_first(tmp_path) -> None:
    report = broken()
    page = tmp_path / "summary.md"
    page.write_text("of another step\n\n", "utf-8")
    append_summary(report, page)
    text = page.read_text("utf-8")
    assert text.startswith("of another step\n\n### normfold check") and text.count("| --- |") >= 1
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert tables[0].startswith("| finding | severity") and tables[2].startswith(
        "| S03 negative variance | error | bn2 |"
    )
    assert "Next: " in text
    layers = markdown(with_data()).split("| layer | status")[1].splitlines()
    assert layers[2].startswith("| bn2 | fail, root cause | 1 |") and "collateral" in layers[3]


def test_names_do_not_become_anything_else() -> None:
    report = hostile()
    page = markdown(report)
    assert "<" not in page and not {"\x07", "\x1b"} & set(page)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in page.splitlines() if row.startswith("|")} == {6, 7}
    assert all(
        line.startswith(("::error file=", "::warning file=", "::notice file=", "normfold check"))
        for line in github(report).splitlines()
    )
    assert ElementTree.fromstring(junit(report)) is not None
    assert json.loads(sarif(report))["runs"][0]["results"]
    page = html(report)
    assert "<script" not in page.lower() and "</title><s" not in page
    assert "{{ 7*7 }}" in page and not {"\x07", "\x1b"} & set(page)


class _Page(HTMLParser):
    """Tags that are open, and everything that would reach outside."""

    VOID = frozenset(("meta", "br", "link", "img", "hr", "input", "line", "circle", "rect"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "onload", "onerror", "srcset")]
        self.outside += [tag] if tag in ("script", "link", "iframe", "object") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize(
    "make", [broken, hostile, with_data, lambda: examine(healthy())], ids=["broken", "hostile", "data", "healthy"]
)
def test_the_page_is_well_formed_and_reaches_nowhere(make) -> None:  # type: ignore[no-untyped-def]
    report = make()
    page = _Page()
    page.feed(html(report))
    page.close()
    assert not page.open and not page.outside
    text = " ".join(page.texts)
    shown = report.summary.replace("\x07", "�").replace("\x1b", "�")
    assert shown in text and report.next_step in text
    assert "url(" not in html(report)


def test_the_page_shows_what_data_said() -> None:
    page = html(with_data())
    for part in (
        "Drift of each layer",
        "measured mean",
        "measured variance",
        "At fault",
        "bn2 (norm 3 of 6)",
        "/255",
        "channel order",
    ):
        assert part in page
    assert 'class="ring"' in page and "collateral of" in page


def test_numbers_that_cannot_be_drawn_are_left_out() -> None:
    assert not scatter((None, 1.0), (1.0, None), "a", "b")
    assert not scatter((-1.0,), (1.0,), "a", "b", log=True)
    assert not histogram([("stored", (0.0, -1.0, None))], "v")
    assert 'class="point"' in scatter((1.0,), (1.0,), "a", "b")
    assert 'class="bin' in histogram([("stored", (1.0, 1.0))], "v")
    for layer in (
        LayerReport(node="", key="k", op_type="X", position=0, status=Status.FAIL, channels=ChannelReport()),
    ):
        assert html(examine(healthy()).model_copy(update={"layers": (layer,)}))


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such directory"):
        write_html(broken(), tmp_path / "none" / "r.html")
    target = tmp_path / "folder"
    target.mkdir()
    (target / "x").touch()
    with pytest.raises(OutputError):
        write_html(broken(), target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_page_never_replaces_the_model(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(healthy().SerializeToString())
    link = tmp_path / "link.html"
    link.symlink_to(model)
    report = broken().model_copy(update={"input": FileReport(path=str(model), sha256=None)})
    for path in (model, link):
        with pytest.raises(OutputError, match="replace the model"):
            write_html(report, path)
    assert model.read_bytes() == healthy().SerializeToString()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("make", [broken, with_data], ids=["file", "data"])
def test_a_browser_draws_it(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    path, picture = tmp_path / "r.html", tmp_path / "r.png"
    write_html(make(), path)
    assert CHROMIUM is not None
    common = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'home'}",
    ]
    subprocess.run(
        [*common, "--window-size=1100,2600", f"--screenshot={picture}", path.as_uri()],
        check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    assert picture.stat().st_size > 40_000  # an empty page of this size has a tenth of that
    drawn = subprocess.run(
        [*common, "--enable-logging=stderr", "--dump-dom", path.as_uri()], check=True, capture_output=True,
        text=True, timeout=100,
    )  # fmt: skip
    assert "CONSOLE" not in drawn.stderr, "the page's own policy blocks nothing that it needs"
    assert "<svg" in drawn.stdout
