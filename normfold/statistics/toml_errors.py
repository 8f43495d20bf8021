"""Reading small TOML files of settings, with one line that says what is wrong and what was probably meant."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from normfold.errors import InputError, UsageError
from normfold.model.opener import open_stream

_LARGEST = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        UsageError: `config.missing`, `config.unreadable`, `config.syntax`.
    """
    try:
        with open_stream(path) as file:
            data = file.read(_LARGEST + 1)
    except InputError as error:
        raise UsageError("config.unreadable", error.message, where=str(path)) from None
    except FileNotFoundError:
        raise UsageError("config.missing", "no such file", where=str(path)) from None
    except OSError as error:
        raise UsageError("config.unreadable", f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(data) > _LARGEST:
        raise UsageError("config.unreadable", "larger than 1 MiB: this is no settings file", where=str(path))
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError("config.syntax", f"no valid TOML: {error}", where=str(path)) from None


def explain(error: ValidationError, model: type[BaseModel], where: str, prefix: str = "") -> UsageError:
    """The first problem of a validation as one line; an unknown key comes with a suggestion."""
    problem = error.errors()[0]
    parts = [str(part) for part in problem["loc"]]
    place = ".".join([*([prefix] if prefix else []), *parts])
    if problem["type"] == "extra_forbidden":
        return unknown_key(place, parts[-1], _siblings(model, parts[:-1]), where)
    text = str(problem["msg"]).removeprefix("Value error, ")
    return UsageError("config.value", f"{place}: {text}" if place else text, where=where)


def unknown_key(place: str, key: str, known: Sequence[str], where: str) -> UsageError:
    """The error for a key that nobody reads."""
    close = get_close_matches(key, known, 1, 0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
    return UsageError("config.unknown_key", f"unknown key {place!r}", where=where, hint=hint)


def _siblings(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The keys that are known in the table at `path`."""
    current: type[BaseModel] = model
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            continue  # the position in a list
        inner = _model_in(field.annotation)
        if inner is None:
            return []
        current = inner
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(part) for part in getattr(annotation, "__args__", ()))
    return next((found for found in inner if found is not None), None)
