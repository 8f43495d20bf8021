"""What every JSON document of normfold is made of: frozen values, a head with a version, and errors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

SCHEMA_VERSION = "1.3"


def _speakable(text: str) -> str:
    """Names of files are bytes; those that are no text have no place in JSON, so they are shown as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# Text that may contain the name of a file.
Text = Annotated[str, AfterValidator(_speakable)]


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
    message: Text
    where: Text
    hint: str


class FileReport(Value):
    """What was read or written."""

    path: Text
    sha256: str | None
    data: Text | None = None
