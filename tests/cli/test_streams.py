"""Streams that are closed or full, and file names that are no text: still an exit code that is right, and no traceback."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.cli.test_cli import model

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no device that is always full")


def normfold(*arguments: str | Path, redirect: str = "") -> subprocess.CompletedProcess[str]:
    """Through a shell, which closes streams."""
    command = shlex.join([sys.executable, "-m", "cli", *map(str, arguments)])
    return subprocess.run(
        ["sh", "-c", f"{command} {redirect}"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    return path


@needs_full
@pytest.mark.parametrize("options", [(), ("--format", "json")])
@pytest.mark.parametrize("command", ["inspect", "check", "explain", "optimize"])
def test_a_result_that_cannot_be_printed(source: Path, command: str, options: tuple[str, ...]) -> None:
    done = normfold(command, source, *options, redirect="> /dev/full")
    assert done.returncode == 2
    assert done.stderr == "normfold: the system refused: no space left on device\n"


@needs_full
def test_an_error_that_cannot_be_printed_where_it_belongs(tmp_path: Path) -> None:
    done = normfold("inspect", tmp_path / "none", "--format", "json", redirect="> /dev/full")
    assert done.returncode == 2
    assert "no such file" in done.stderr
    assert done.stderr.count("\n") == 1
    assert normfold("inspect", tmp_path / "none", redirect="2> /dev/full").returncode == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(source: Path, closed: str) -> None:
    """What is opened next must not take the place of a stream: what is printed would go into it."""
    output = source.with_name("o.onnx")
    done = normfold("optimize", source, "-o", output, redirect=closed)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert [node.op_type for node in onnx.load(str(output)).graph.node] == ["Conv", "Relu"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems want names to be text")
@pytest.mark.parametrize("command", ["inspect", "check", "explain", "optimize"])
def test_a_file_name_that_is_no_text(source: Path, command: str) -> None:
    odd = source.rename(source.with_name(os.fsdecode(b"\xff\xfe.onnx")))
    done = normfold(command, odd, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["error"] is None if command != "explain" else True
    assert "internal" not in done.stdout
    missing = normfold(command, source.with_name(os.fsdecode(b"\xff")), "--format", "json")
    assert missing.returncode == 2
    assert json.loads(missing.stdout)["error"]["code"] == "input.not_found"
    assert json.loads(missing.stdout)["error"]["where"].endswith("\\udcff")


def test_a_page_does_not_take_the_place_of_what_is_no_file(source: Path) -> None:
    pipe = source.with_name("pipe")
    os.mkfifo(pipe)
    for place, words in ((pipe, "not a regular file"), (source.parent, "report.html"), (pipe / "x", "no such dir")):
        done = normfold("check", source, "--html", place, "--exit-zero")
        assert done.returncode == 2
        assert words in done.stderr
    assert pipe.is_fifo()
