"""What a project says about `check` in a file: `[tool.normfold.check]` in pyproject.toml, or `[check]` in normfold.toml.

    [tool.normfold.check]
    fail-on = "warning"
    strict = true
    suppress = "normfold-suppress.toml"     # relative to this file

    [tool.normfold.check.thresholds]
    j_fail = 0.3

The command line overrules the file, the file the defaults. Consumed by the command line only: the Python API takes values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normfold.errors import UsageError
from normfold.statistics.thresholds import Thresholds
from normfold.statistics.toml_errors import explain, read_toml, unknown_key

FailOn = Literal["error", "warning", "info", "never"]
_OWN, _PROJECT = "normfold.toml", "pyproject.toml"


class Settings(BaseModel):
    """The content of the table."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    fail_on: FailOn = Field(default="error", alias="fail-on")
    strict: bool = False
    suppress: Path | None = None
    thresholds: Thresholds = Field(default_factory=Thresholds)


def load_settings(path: Path | None, start: Path) -> Settings:
    """Settings of a file, or of the nearest one that has some.

    Args:
        path: a file that was named; None looks for normfold.toml and pyproject.toml from `start` upwards.
        start: a folder.

    Raises:
        UsageError: `config.*`: the file is missing or damaged, or a key is unknown or has a wrong value.
    """
    if path is not None:
        return _settings(path, _table(path) or {})
    for folder in (start, *start.parents):
        for name in (_OWN, _PROJECT):
            candidate = folder / name
            if candidate.is_file():
                table = _table(candidate)
                if table is not None:
                    return _settings(candidate, table)
    return Settings()


def _table(path: Path) -> dict[str, Any] | None:
    """The table about `check`; None where a pyproject.toml says nothing about normfold."""
    content: Any = read_toml(path)
    if path.name == _PROJECT:
        tool = content.get("tool")
        content = tool.get("normfold") if isinstance(tool, dict) else None
        if content is None:
            return None
    place = "tool.normfold" if path.name == _PROJECT else ""
    if not isinstance(content, dict):
        raise UsageError("config.value", f"{place} is no table", where=str(path))
    for key in content:
        if key != "check":
            raise unknown_key(f"{place}.{key}".lstrip("."), key, ["check"], str(path))
    table = content.get("check", {})
    if not isinstance(table, dict):
        raise UsageError("config.value", f"{place}.check is no table".lstrip("."), where=str(path))
    return table


def _settings(path: Path, table: dict[str, Any]) -> Settings:
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        prefix = "tool.normfold.check" if path.name == _PROJECT else "check"
        raise explain(error, Settings, str(path), prefix) from None
    if settings.suppress is None:
        return settings
    return settings.model_copy(update={"suppress": path.parent / settings.suppress})
