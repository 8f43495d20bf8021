"""A model file as the place that everything is read from: opened at once, hashed while nobody waits for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from threading import Thread

from normfold.errors import InputError
from normfold.model.opener import Opened, absolute, open_model


class Fingerprint:
    """The SHA-256 of a buffer, computed by a thread of its own: hashing releases the interpreter lock."""

    def __init__(self, view: memoryview) -> None:
        self._hash = hashlib.sha256()
        self._thread = Thread(target=self._hash.update, args=(view,), daemon=True)
        self._thread.start()

    def hexdigest(self) -> str:
        """The digest; waits for it."""
        self._thread.join()
        return self._hash.hexdigest()


class Source:
    """A model file that is open. What is wrong with it is said when it is read, not when it is opened.

    Importing onnx and numpy takes as long as hashing 100 MB, and needs the other processor only: whoever makes this before
    it imports them gets the fingerprint for nothing.

    Args:
        path: of the model.
        hashed: whether its fingerprint will be wanted.
    """

    def __init__(self, path: str | os.PathLike[str], *, hashed: bool = True) -> None:
        self.path: Path = absolute(path)
        self.fingerprint: Fingerprint | None = None
        self._opened: Opened | InputError
        try:
            self._opened = open_model(self.path)
        except InputError as error:
            self._opened = error
        else:
            self.fingerprint = Fingerprint(self._opened.view) if hashed else None

    @property
    def view(self) -> memoryview:
        """The content.

        Raises:
            InputError: see `opener.open_model`.
        """
        if isinstance(self._opened, InputError):
            raise self._opened
        return self._opened.view

    def require_unchanged(self) -> None:
        """Nobody wrote to the file, or put another one in its place, since it was opened.

        Raises:
            InputError: `input.changed`.
        """
        if not isinstance(self._opened, InputError) and self._opened.now() != self._opened.stamp:
            raise InputError(
                "input.changed",
                "the file was changed while it was read",
                where=str(self.path),
                hint="run again when it is complete",
            )
