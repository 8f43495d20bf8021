"""What is shipped: every sub-package, under two names at the top level, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LISTED = PROJECT["tool"]["setuptools"]["packages"]


def _packages(folder: Path, name: str) -> set[str]:
    return {".".join([name, *path.parent.relative_to(folder).parts]) for path in folder.rglob("*.py")}


def test_every_package_is_listed() -> None:
    assert sorted(LISTED) == sorted(_packages(ROOT / "normfold", "normfold") | _packages(ROOT / "cli", "normfold_cli"))
    assert len(LISTED) == len(set(LISTED))


def test_every_package_is_a_package() -> None:
    for name in LISTED:
        folder = ROOT / name.replace("normfold_cli", "cli").replace(".", "/")
        assert (folder / "__init__.py").is_file(), name


def test_the_top_level_is_ours_alone() -> None:
    """`cli`, `models` or `tests` in site-packages would collide with the rest of the world."""
    assert {name.split(".")[0] for name in LISTED} == {"normfold", "normfold_cli"}
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"normfold_cli": "cli"}
    assert PROJECT["project"]["scripts"] == {"normfold": "normfold_cli.entry:main"}


def test_types_are_shipped() -> None:
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["normfold"]
    assert (ROOT / "normfold" / "py.typed").is_file()


def test_no_runtime_is_a_dependency() -> None:
    """Two distributions of onnxruntime in one environment overwrite each other: the user chooses one."""
    wanted = [*PROJECT["project"]["dependencies"]]
    assert not [name for name in wanted if name.startswith(("onnxruntime", "torch"))]
    extras = PROJECT["project"]["optional-dependencies"]
    assert [name.split(">")[0] for name in extras["cpu"] + extras["gpu"]] == ["onnxruntime", "onnxruntime-gpu"]


def test_the_version_has_one_value() -> None:
    from normfold import __version__

    assert PROJECT["project"]["version"] == __version__


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_what_an_installation_contains(tmp_path: Path) -> None:
    """Build as an installer would, into an empty folder, and look at the top level."""
    pytest.importorskip("setuptools")
    script = ["-q", "egg_info", "-e", str(tmp_path), "build", "-b", str(tmp_path / "build")]
    script += ["install_lib", "-d", str(tmp_path / "site"), "--no-compile"]
    done = run(f"import sys; from setuptools import setup; sys.argv = ['setup.py', *{script}]; setup()", ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    site = tmp_path / "site"
    assert {path.name for path in site.iterdir()} == {"normfold", "normfold_cli"}
    for source, target in ((ROOT / "normfold", site / "normfold"), (ROOT / "cli", site / "normfold_cli")):
        wanted = {str(path.relative_to(source)) for path in source.rglob("*.py")}
        assert {str(path.relative_to(target)) for path in target.rglob("*.py")} == wanted
    assert (site / "normfold" / "py.typed").is_file()
    assert (site / "normfold" / "report" / "check" / "templates" / "check.html.j2").is_file()
    code = (
        "import normfold, normfold_cli.app as a; from normfold_cli import render; print(normfold.__file__, a.__file__)"
    )
    done = run(code, site)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "normfold" / "__init__.py"), str(site / "normfold_cli" / "app.py")]
