"""A Python function of the user as data: `package.module:function`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normfold.errors import InputError
from normfold.statistics.collect import Array
from normfold.statistics.data.batching import Rows
from normfold.statistics.data.inputs import ModelInput, assign

_SPEC = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function(spec: str) -> bool:
    """Whether a text has the form of a function."""
    return _SPEC.fullmatch(spec) is not None


def find_function(spec: str) -> Callable[[], Any]:
    """Import a function; modules are also looked for in the current folder.

    Raises:
        InputError: there is no such module or function, or importing it fails.
    """
    module, _, name = spec.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever the user's module raises is the user's to repair
        raise InputError("data.function", f"cannot be imported: {type(error).__name__}: {error}", where=spec) from None
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError("data.function", f"{module} has no function {name!r}", where=spec)
    function: Callable[[], Any] = found
    return function


class FunctionReader:
    """What a function of no arguments returns: an iterable of batches, read anew for each pass.

    A batch is an array `[N, …]` (for a model of one input), or a mapping from inputs to arrays, which may hold the group key.
    """

    def __init__(self, function: Callable[[], Any], inputs: tuple[ModelInput, ...], where: str, group_key: str) -> None:
        self._function, self._inputs, self._where, self._key = function, inputs, where, group_key

    @property
    def description(self) -> str:
        """The function."""
        return self._where

    def rows(self) -> Iterator[Rows]:
        """From the start.

        Raises:
            InputError: the function fails, or yields something else.
        """
        try:
            stream = iter(self._function())
        except Exception as error:
            raise self._failed(error) from error
        while True:
            try:
                item = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise self._failed(error) from error
            rows = self._rows(item)
            if rows.samples:
                yield rows

    def _failed(self, error: Exception) -> InputError:
        words = " ".join(str(error).split())[:300]
        return InputError("data.function", f"the function failed: {type(error).__name__}: {words}", where=self._where)

    def _rows(self, item: Any) -> Rows:
        arrays = dict(item) if isinstance(item, Mapping) else {self._inputs[0].name: item}
        given = {name: np.asarray(value) for name, value in arrays.items()}
        chosen: dict[str, Array] = assign(self._inputs, given, self._where, self._key)
        lengths = {value.shape[:1] for value in chosen.values()}
        if len(lengths) > 1 or () in lengths:
            raise InputError("data.shape", "a batch has arrays of different numbers of samples", where=self._where)
        groups = None
        if self._key:
            if self._key not in given:
                raise InputError("data.group_key", f"a batch has no {self._key!r}", where=self._where)
            groups = tuple(str(value) for value in given[self._key].reshape(-1))
            if (len(groups),) not in lengths:
                raise InputError("data.group_key", f"{self._key!r} must hold one value per sample", where=self._where)
        return Rows(chosen, groups)
