"""A model file as the place that everything is read from: opened at once, hashed while nobody waits for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from threading import Thread

from normfold.errors import InputError
from normfold.model.opener import DEFAULT_TRUST, Opened, absolute, open_model
from normfold.model.trust import Trust

# Of a larger file, what was hashed is given back: it would count as memory of this process.
_KEEP, _BLOCK = 256 << 20, 16 << 20


class Fingerprint:
    """The SHA-256 of a buffer, computed by a thread of its own: hashing releases the interpreter lock.

    Args:
        view: the buffer.
        opened: the file that it is all of, if it is one.
    """

    def __init__(self, view: memoryview, opened: Opened | None = None) -> None:
        self._hash = hashlib.sha256()
        self._thread = Thread(target=self._read, args=(view, opened), daemon=True)
        self._thread.start()

    def _read(self, view: memoryview, opened: Opened | None) -> None:
        if opened is None or opened.size <= _KEEP:
            self._hash.update(view)
            return
        for start in range(0, len(view), _BLOCK):
            self._hash.update(view[start : start + _BLOCK])
            opened.release(start, _BLOCK)

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
        trust: which links may lead to its external data.
    """

    def __init__(self, path: str | os.PathLike[str], *, hashed: bool = True, trust: Trust = DEFAULT_TRUST) -> None:
        self.path: Path = absolute(path)
        self.trust = trust
        self.fingerprint: Fingerprint | None = None
        self._opened: Opened | InputError
        try:
            self._opened = open_model(self.path)
        except InputError as error:
            self._opened = error
        else:
            self.fingerprint = Fingerprint(self._opened.view, self._opened) if hashed else None

    @property
    def opened(self) -> Opened | None:
        """The open file; None if it could not be opened."""
        return None if isinstance(self._opened, InputError) else self._opened

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
