"""What every JSON document of normfold is made of: frozen values, a head with a version, and errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = "1.3"


class Value(BaseModel):
    """A frozen part of a document."""

    # Validators are built when a report is made, not when this module is imported. What has the same attributes is read
    # by their names.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, from_attributes=True)


class Document(Value):
    """What every document starts with."""

    schema_version: str = SCHEMA_VERSION
    tool: Literal["normfold"] = "normfold"
    version: str


class ErrorReport(Value):
    """Why there is no result."""

    code: str
    message: str
    where: str
    hint: str


class FileReport(Value):
    """What was read or written."""

    path: str
    sha256: str | None
    data: str | None = None
