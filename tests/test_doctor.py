"""The doctor finds what is wrong with an environment, whatever breaks while he looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from normfold import doctor
from normfold.errors import EnvironmentProblem
from normfold.report.doctor import DoctorReport

ROOT = Path(__file__).parents[1]


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cli", "doctor", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """Answers of the children, by provider; "" is the first question."""
    answers: dict[str, dict[str, object]] = {
        "": {"opset": 23, "ir_version": 11, "providers": ["CPUExecutionProvider"], "said": ""},
        "CPUExecutionProvider": {"used": ["CPUExecutionProvider"], "right": True, "said": ""},
    }
    monkeypatch.setattr(doctor, "probe", lambda *arguments: answers["".join(arguments)])
    return answers


def codes(report: DoctorReport, level: str) -> list[str]:
    return [problem.code for problem in report.problems if problem.level == level]


# --- the real thing ---


def test_this_environment_is_fit() -> None:
    done = command("--json")
    assert done.returncode == 0, done.stdout
    report = DoctorReport.model_validate_json(done.stdout)
    assert report.ok
    assert report.runtime is not None
    assert next(found for found in report.providers if found.name == "CPUExecutionProvider").works
    assert all(found.works or found.reason for found in report.providers)
    assert report.telemetry == "off"
    assert report.opset is not None
    shown = command()
    assert shown.returncode == 0
    assert shown.stdout.rstrip().endswith("fit for work")
    assert "\x1b" not in shown.stdout


def test_the_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = dict(item.split(">=") for item in project["dependencies"])
    assert {name: floor.least for name, floor in doctor.FLOORS.items() if floor.needed} == needed
    (runtime,) = project["optional-dependencies"]["cpu"]
    assert runtime == f"onnxruntime>={doctor.RUNTIME_FLOOR.least}"
    assert project["optional-dependencies"]["torch"] == [f"torch>={doctor.FLOORS['torch'].least}"]


# --- what can be wrong ---


@pytest.mark.parametrize(
    ("version", "floor", "below"),
    [
        ("1.21.0", "1.21", False),
        ("1.20.9", "1.21", True),
        ("2", "1.21", False),
        ("1.9", "1.21", True),
        ("1.21.0rc1", "1.21", False),
        ("2.10.0+cu130", "2.10", False),
        ("6.33.5", "6.33.5", False),
        ("6.33.4.post1", "6.33.5", True),
        ("unknown", "1", True),
    ],
)
def test_versions(version: str, floor: str, below: bool) -> None:
    assert doctor.is_below(version, floor) is below


@pytest.mark.parametrize(
    ("name", "version", "level", "code"),
    [
        ("onnx", None, "error", "environment.missing"),
        ("onnx", "1.20.1", "error", "environment.old"),
        ("onnx", "1.22.0", "warning", "environment.old"),
        ("protobuf", "5.29.5", "error", "environment.old"),
        ("torch", "2.9.1", "error", "environment.old"),
        ("safetensors", "0.7", "error", "environment.old"),
    ],
)
def test_packages(
    monkeypatch: pytest.MonkeyPatch, quick: object, name: str, version: str | None, level: str, code: str
) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda other: version if other == name else real(other))
    report = doctor.examine()
    assert codes(report, level) == [code]
    assert report.ok is (level == "warning")
    (problem,) = report.problems
    assert problem.hint.startswith("pip install")
    assert name in problem.message


def test_what_normfold_does_not_need_may_be_missing(monkeypatch: pytest.MonkeyPatch, quick: object) -> None:
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name in ("torch", "safetensors") else real(name))
    assert doctor.examine().problems == ()


@pytest.mark.parametrize("code", ["runtime.missing", "runtime.conflict"])
def test_runtimes(monkeypatch: pytest.MonkeyPatch, quick: object, code: str) -> None:
    def refuse() -> None:
        raise EnvironmentProblem(code, "it is wrong", hint="do this")

    monkeypatch.setattr(doctor, "runtime_info", refuse)
    report = doctor.examine()
    assert codes(report, "error") == [code]
    assert report.runtime is None


def test_a_runtime_below_its_floor(monkeypatch: pytest.MonkeyPatch, quick: object) -> None:
    monkeypatch.setattr(doctor, "runtime_info", lambda: {"distribution": "onnxruntime", "version": "1.20.0"})
    assert codes(doctor.examine(), "error") == ["environment.old"]


def test_a_runtime_that_does_not_import(quick: dict[str, dict[str, object]]) -> None:
    quick[""] = {"opset": 23, "ir_version": 11, "runtime_error": "ImportError: broken", "said": ""}
    report = doctor.examine()
    assert codes(report, "error") == ["runtime.broken"]
    assert "ImportError" in report.problems[0].message


def test_onnx_that_crashes(quick: dict[str, dict[str, object]]) -> None:
    quick[""] = {"error": "ended by signal 11"}
    assert codes(doctor.examine(), "error") == ["environment.onnx"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"error": "ended by signal 11"}, "signal 11"),
        (
            {"used": ["CPUExecutionProvider"], "right": True, "said": "no library"},
            "fell back to CPUExecutionProvider: no",
        ),
        ({"used": [], "right": True, "said": ""}, "fell back to nothing"),
        ({"used": ["XProvider"], "right": False, "said": ""}, "wrongly"),
    ],
)
def test_providers(quick: dict[str, dict[str, object]], answer: dict[str, object], words: str) -> None:
    quick[""]["providers"] = ["XProvider", "CPUExecutionProvider"]
    quick["XProvider"] = answer
    report = doctor.examine()
    assert report.ok
    assert words in report.problems[0].message
    quick["CPUExecutionProvider"] = {"error": "broken"}
    assert "runtime.provider" in codes(doctor.examine(), "error")


def test_no_cpu_provider(quick: dict[str, dict[str, object]]) -> None:
    quick[""]["providers"] = []
    assert codes(doctor.examine(), "error") == ["runtime.provider"]


# --- the child ---


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("raise SystemExit(3)", "status 3"),
        ("import sys; open(sys.argv[1], 'w').write('{')", "no answer"),
        ("import time; time.sleep(60)", "within"),
    ],
)
def test_a_child_that_breaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, words: str) -> None:
    script = tmp_path / "probe.py"
    script.write_text(program)
    monkeypatch.setattr(doctor, "_PROBE", script)
    monkeypatch.setattr(doctor, "_SECONDS", 2.0)
    assert words in str(doctor.probe()["error"])


def test_a_provider_that_does_not_exist() -> None:
    found = doctor.probe("NoSuchExecutionProvider")
    assert "error" in found or found["used"] == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("2026-01-01 10:00:00.123 [E:onnxruntime:Default, a.cc:1 Get] broken", "broken"),
        ("\x1b[0;93mred\x1b[m", "red"),
        ("x [ONNXRuntimeError] : 1 : FAIL : no library", "no library"),
        ("", ""),
    ],
)
def test_what_libraries_say(line: str, shown: str) -> None:
    assert doctor._last_line(f"first\n{line}\n" if line else "") == shown


# --- limits ---


def test_limits(monkeypatch: pytest.MonkeyPatch, quick: object) -> None:
    monkeypatch.setattr(doctor, "_open_files", lambda: 64)
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: "/nowhere/at/all")
    report = doctor.examine()
    assert codes(report, "warning") == ["environment.files"]
    assert codes(report, "error") == ["environment.temporary"]


def test_a_machine_that_reads_numbers_the_other_way(monkeypatch: pytest.MonkeyPatch, quick: object) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    assert codes(doctor.examine(), "error") == ["environment.byteorder"]


def test_an_unfit_environment_is_exit_code_1(tmp_path: Path) -> None:
    """A second runtime, as far as the metadata say."""
    folder = tmp_path / "onnxruntime_openvino-1.24.4.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-openvino\nVersion: 1.24.4\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    done = command("--format", "json", PYTHONPATH=path)
    assert done.returncode == 1
    assert "runtime.conflict" in [problem["code"] for problem in json.loads(done.stdout)["problems"]]
    shown = command(PYTHONPATH=path)
    assert shown.returncode == 1
    assert shown.stdout.rstrip().endswith("not fit for work")
    assert "pip uninstall" in shown.stdout
