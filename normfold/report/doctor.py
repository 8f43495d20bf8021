"""The document of `normfold doctor`."""

from __future__ import annotations

from typing import Literal

from normfold.report.schema import Document, ErrorReport, Value


class Package(Value):
    """A distribution: installed version, oldest one that will do, and oldest one without known holes."""

    name: str
    version: str | None
    least: str
    advised: str | None


class Provider(Value):
    """An execution provider that the runtime lists, and whether a session on it computed anything."""

    name: str
    works: bool
    reason: str


class Limits(Value):
    """What a process may use here: descriptors, bytes of memory, and the directory for temporary files."""

    open_files: int | None
    memory: int | None
    temporary: str | None
    temporary_free: int
    cpus: int


class Problem(Value):
    """Something to repair (`error`) or to know (`warning`)."""

    level: Literal["error", "warning"]
    code: str
    message: str
    hint: str


class DoctorReport(Document):
    """The environment; `ok` if normfold can work in it and nothing in it is below its security floor."""

    ok: bool = False
    python: str = ""
    platform: str = ""
    packages: tuple[Package, ...] = ()
    runtime: Package | None = None
    opset: int | None = None
    ir_version: int | None = None
    providers: tuple[Provider, ...] = ()
    telemetry: str = ""
    limits: Limits | None = None
    problems: tuple[Problem, ...] = ()
    error: ErrorReport | None = None
