"""The external data files of one model: opened when their tensors are read, a bounded number at a time.

A model may name any number of files, and a process may hold few descriptors and mappings. So only the files that were
read last stay open. A file that is opened again must still be the file that it was.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import RLock

from normfold.errors import InputError
from normfold.model.opener import DEFAULT_TRUST, Opened, Stamp, open_data
from normfold.model.trust import Trust

# Each takes a descriptor and a mapping, and a mapping takes another descriptor. `ulimit -n` is 1024 on most systems.
_MOST_OPEN = 64
_HASH_BLOCK = 8 << 20


class DataFiles:
    """The data files of a model, by location.

    Args:
        model_path: None for a model that did not come from a file, and that cannot have any.
        trust: which links may lead to them.
    """

    def __init__(self, model_path: Path | None, trust: Trust = DEFAULT_TRUST) -> None:
        self._model_path, self._trust = model_path, trust
        self.caps = trust.caps
        self._open: dict[str, Opened] = {}  # the one that was used last comes last
        self._stamps: dict[str, Stamp] = {}
        self._checksums: dict[str, str] = {}
        self._linked: set[str] = set()
        self._lock = RLock()

    def expect(self, location: str, checksum: str) -> bool:
        """Have the SHA-1 of a file compared when it is opened; False if the model names two for one file."""
        return self._checksums.setdefault(location, checksum.lower()) == checksum.lower()

    def get(self, location: str, tensor: str) -> Opened:
        """The open file that `tensor` names.

        Raises:
            InputError: see `opener.open_data`; `extdata.no_directory` if the model did not come from a file;
                `extdata.changed` if it is not the file of that name that was opened before; `extdata.checksum`.
        """
        with self._lock:
            opened = self._open.pop(location, None)
            if opened is None:
                opened = self._opened(location, tensor)
            self._open[location] = opened
            while len(self._open) > _MOST_OPEN:
                # Not closed: another thread may be reading it, and then it goes when that is done.
                del self._open[next(iter(self._open))]
            return opened

    def _opened(self, location: str, tensor: str) -> Opened:
        if self._model_path is None:
            raise InputError(
                "extdata.no_directory",
                f"tensor {tensor!r} has external data, but the model was not read from a file",
                hint="pass the path of the model instead",
            )
        opened = open_data(self._model_path, location, tensor, self._trust)
        known = self._stamps.get(location)
        if known is None:
            self._first(opened, location)
        elif opened.stamp != known:
            raise _changed(opened.path)
        return opened

    def _first(self, opened: Opened, location: str) -> None:
        wanted = self._checksums.get(location)
        if wanted is not None and wanted != _sha1(opened):
            raise InputError(
                "extdata.checksum",
                "the file has not the checksum that the model says",
                where=str(opened.path),
                hint="it is damaged or belongs to another model",
            )
        self._stamps[location] = opened.stamp
        if opened.stamp.links > 1:
            self._linked.add(location)

    def release(self, location: str, offset: int, length: int) -> None:
        """Let the system take back the pages of a range, if the file is open."""
        with self._lock:
            opened = self._open.get(location)
        if opened is not None:
            opened.release(offset, length)

    def require_unchanged(self) -> None:
        """Nobody wrote to any of the files since they were opened first.

        Raises:
            InputError: `extdata.changed`.
        """
        for location in self._stamps:
            if location in self._open:
                now: Stamp | None = self._open[location].now()
            else:
                now = self._opened(location, location).stamp
            if now != self._stamps[location]:
                raise _changed(Path(location))

    def hard_links(self) -> list[str]:
        """Locations of files that have another name as well, of those that were opened."""
        return sorted(self._linked)

    def close(self) -> None:
        """Close every file."""
        for opened in self._open.values():
            opened.close()
        self._open.clear()


def _changed(path: Path) -> InputError:
    return InputError(
        "extdata.changed",
        "the file was changed while it was read",
        where=str(path),
        hint="run again when it is complete",
    )


def _sha1(opened: Opened) -> str:
    digest = hashlib.sha1(usedforsecurity=False)  # the standard says which; it finds damage, not forgery
    for start in range(0, opened.size, _HASH_BLOCK):
        digest.update(opened.view[start : start + _HASH_BLOCK])
        opened.release(start, _HASH_BLOCK)
    return digest.hexdigest()
