"""Is this environment fit? Versions, the one runtime, providers that load and those that do not, telemetry, limits.

Nothing is imported that could be broken: versions are read from what is installed, everything else is asked in a child.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from normfold._version import __version__
from normfold.errors import EnvironmentProblem
from normfold.report.doctor import DoctorReport, Limits, Package, Problem, Provider
from normfold.verification.limits import system_memory
from normfold.verification.runtime import runtime_info

_PROBE = Path(__file__).parent / "verification" / "probe.py"
_SECONDS = 120.0
_LEAST_FILES = 256  # open files
_LEAST_SPACE = 1 << 30  # bytes for inputs and outputs of a comparison
TELEMETRY = "ORT_DISABLE_TELEMETRY"


@dataclass(frozen=True, slots=True)
class Floor:
    """The oldest version that normfold runs with, for a reason that the security notes give.

    Args:
        least: oldest version; below it is a problem.
        advised: oldest version that is fit for files from strangers, if that is another one.
        needed: whether normfold needs the package at all.
    """

    least: str
    advised: str = ""
    needed: bool = True


FLOORS: Mapping[str, Floor] = {
    "numpy": Floor("1.26"),
    "onnx": Floor("1.21", advised="1.23"),
    "protobuf": Floor("6.33.5"),
    "onnx-graphsurgeon": Floor("0.6.1"),
    "ml-dtypes": Floor("0.5"),
    "pydantic": Floor("2.7"),
    "typer": Floor("0.20"),
    "rich": Floor("13.7"),
    "filelock": Floor("4.2"),
    "jinja2": Floor("3.1"),
    "torch": Floor("2.10", needed=False),
    "safetensors": Floor("0.8", needed=False),
}
RUNTIME_FLOOR = Floor("1.24.4")


def examine() -> DoctorReport:
    """Look at the environment; every finding is a `Problem`, and none is raised."""
    packages = tuple(_packages(FLOORS))
    problems = [problem for package in packages for problem in _judged(package, FLOORS[package.name])]
    runtime, found = _runtime()
    problems += found
    libraries = probe()
    if "error" in libraries:
        problems.append(_bad("environment.onnx", f"onnx cannot be imported: {libraries['error']}", "pip install onnx"))
    if runtime is not None and "runtime_error" in libraries:
        message = f"onnxruntime cannot be imported: {libraries['runtime_error']}"
        problems.append(_bad("runtime.broken", message, f"pip install --force-reinstall {runtime.name}"))
    providers = tuple(_provider(name) for name in libraries.get("providers", ()))
    problems += _provider_problems(providers, present="providers" in libraries)
    limits = _limits()
    problems += _limit_problems(limits)
    if sys.byteorder != "little":
        problems.append(_bad("environment.byteorder", "normfold reads weights in place, on little-endian machines", ""))
    return DoctorReport(
        version=__version__,
        ok=all(problem.level != "error" for problem in problems),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.machine()}",
        packages=packages,
        runtime=runtime,
        opset=libraries.get("opset"),
        ir_version=libraries.get("ir_version"),
        providers=providers,
        telemetry="off" if os.environ.get(TELEMETRY) == "1" else "off in every process that normfold starts",
        limits=limits,
        problems=tuple(problems),
    )


# --- versions ---


def _packages(floors: Mapping[str, Floor]) -> Iterator[Package]:
    for name, floor in floors.items():
        version = installed(name)
        if version is not None or floor.needed:
            yield Package(name=name, version=version, least=floor.least, advised=floor.advised or None)


def installed(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_below(version: str, floor: str) -> bool:
    """Whether a version is older than another; what follows the numbers (rc1, +cu130) does not count."""
    return _release(version) < _release(floor)


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in found.group().split(".")] if found else [0]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _judged(package: Package, floor: Floor) -> Iterator[Problem]:
    name, version = package.name, package.version
    if version is None:
        yield _bad("environment.missing", f"{name} is not installed", f"pip install '{name}>={floor.least}'")
    elif is_below(version, floor.least):
        message = f"{name} {version} is older than {floor.least}"
        yield _bad("environment.old", message, f"pip install --upgrade '{name}>={floor.least}'")
    elif floor.advised and is_below(version, floor.advised):
        message = (
            f"{name} {version} has known holes that {floor.advised} closed; normfold does not rest on it, others may"
        )
        yield _odd("environment.old", message, f"pip install --upgrade '{name}>={floor.advised}'")


# --- the runtime ---


def _runtime() -> tuple[Package | None, list[Problem]]:
    try:
        found = runtime_info()
    except EnvironmentProblem as error:
        return None, [_bad(error.code, error.message, error.hint)]
    package = Package(name=found["distribution"], version=found["version"], least=RUNTIME_FLOOR.least, advised=None)
    return package, list(_judged(package, RUNTIME_FLOOR))


def probe(*arguments: str) -> dict[str, Any]:
    """What a child says about the libraries, or about one provider; `error` where it cannot."""
    with tempfile.TemporaryDirectory(prefix="normfold-doctor-") as folder:
        answer = Path(folder) / "answer"
        command = [sys.executable, "-P", str(_PROBE), str(answer), *arguments]
        environment = {**os.environ, TELEMETRY: "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace",
                timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"error": f"no answer within {_SECONDS:g} s"}
        if done.returncode < 0:
            return {"error": f"ended by signal {-done.returncode}"}
        try:
            found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
        except (OSError, ValueError):
            return {"error": f"no answer (status {done.returncode})"}
        return {**found, "said": _last_line(done.stderr)}


def _last_line(text: str) -> str:
    """The last complaint of a library, without colours and time stamps."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return (
        re.sub(r"^.*\[ONNXRuntimeError\] : \d+ : \w+ : |^[\d\-: .]+\[[^\]]*\]\s*", "", lines[-1])[:500] if lines else ""
    )


def _provider(name: str) -> Provider:
    found = probe(name)
    used = found.get("used", [])
    if "error" in found:
        reason = str(found["error"])
    elif not used or used[0] != name:
        reason = f"the session fell back to {used[0] if used else 'nothing'}" + (
            f": {found['said']}" if found["said"] else ""
        )
    elif not found.get("right"):
        reason = "it computes 1 + 1 wrongly"
    else:
        reason = ""
    return Provider(name=name, works=not reason, reason=reason)


def _provider_problems(providers: Sequence[Provider], *, present: bool) -> Iterator[Problem]:
    cpu = [provider for provider in providers if provider.name == "CPUExecutionProvider"]
    for provider in providers:
        if not provider.works:
            message = f"{provider.name} is listed and does not load: {provider.reason}"
            hint = "normfold compares on the CPU; install its libraries if you want to run models on it"
            yield _bad("runtime.provider", message, "") if provider in cpu else _odd("runtime.provider", message, hint)
    if present and not cpu:
        yield _bad("runtime.provider", "onnxruntime has no CPU provider", "install another distribution of it")


# --- limits ---


def _limits() -> Limits:
    folder: str | None
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError:
        folder, free = None, 0
    return Limits(
        open_files=_open_files(),
        memory=system_memory(),
        temporary=folder,
        temporary_free=free,
        cpus=os.cpu_count() or 1,
    )


def _open_files() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _limit_problems(limits: Limits) -> Iterator[Problem]:
    if limits.temporary is None:
        yield _bad("environment.temporary", "there is no temporary directory", "set TMPDIR to one that you may write")
    elif limits.temporary_free < _LEAST_SPACE:
        message = f"{limits.temporary} has {limits.temporary_free >> 20} MiB left"
        yield _odd("environment.temporary", message, "set TMPDIR to a directory with more space")
    if limits.open_files is not None and limits.open_files < _LEAST_FILES:
        yield _odd("environment.files", f"only {limits.open_files} files may be open", f"ulimit -n {_LEAST_FILES}")


def _bad(code: str, message: str, hint: str) -> Problem:
    return _problem("error", code, message, hint)


def _odd(code: str, message: str, hint: str) -> Problem:
    return _problem("warning", code, message, hint)


def _problem(level: Literal["error", "warning"], code: str, message: str, hint: str) -> Problem:
    return Problem(level=level, code=code, message=message, hint=hint)
