"""The one place that opens files named by a user or by a model.

Rules S1-S4 of the security notes: paths are absolute before anything is decided, links inside a model's directory may
only lead to files of that directory (or, as in a download cache, model and data are both links into one directory) unless
`trust.Links` says otherwise, only regular files are opened, and the size is fixed when the file is opened.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from normfold.errors import InputError
from normfold.model.trust import Links, Trust

# Below this size a file is read: a copy is cheaper than a mapping, and it cannot change under us.
_READ_LIMIT = 8 << 20
# A pipe without a writer is opened at once, and then refused.
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)

_LOOKS_LIKE: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"PK\x03\x04", "a zip archive (or a pickled .pt file)", "unpack it, or export the model to ONNX first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"<!doctype", "an HTML page", "the download failed; fetch the model again"),
    (b"<html", "an HTML page", "the download failed; fetch the model again"),
    (b"{", "JSON", "normfold reads binary ONNX models"),
    (b"\x80\x02", "a pickle", "export the model to ONNX first"),
    (b"\x80\x04", "a pickle", "export the model to ONNX first"),
)
DEFAULT_TRUST = Trust()
_SAFETENSORS_HEADER = 100_000_000  # bytes, the limit of that format
_FORMATS_AT_4 = {b"TFL3": "a TFLite model", b"ORTM": "an .ort model"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file from another one, and from itself at another time. A further name does neither."""

    device: int
    inode: int
    size: int
    modified_ns: int
    links: int = field(compare=False)

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of what a system call said."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_nlink)


class Opened:
    """An open file: its path, its size in bytes fixed at open, and its content as one read-only view.

    `stamp` is that of the moment when it was opened.
    """

    def __init__(
        self, path: Path, view: memoryview, mapping: mmap.mmap | None, stamp: Stamp, descriptor: int | None = None
    ) -> None:
        self.path = path
        self.view = view
        self.size = len(view)
        self.stamp = stamp
        self.descriptor = descriptor  # kept for mapped files, so that the kernel can copy ranges of them
        self._mapping = mapping

    def now(self) -> Stamp | None:
        """The stamp that the file of that name has now; None if there is none, or one that must not be looked at."""
        try:
            return Stamp.of(self.path.stat())
        except OSError:
            return None

    def release(self, offset: int, length: int) -> None:
        """Let the system take back the pages of a range; they are read from the file again when needed."""
        if self._mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        start = offset - offset % mmap.PAGESIZE
        self._mapping.madvise(mmap.MADV_DONTNEED, start, min(offset + length, self.size) - start)

    def offset_of(self, part: memoryview) -> int | None:
        """Where a part of the content lies in the file, in bytes; None if it is none, or if the file is not mapped."""
        if self._mapping is None or not len(part):
            return None
        import numpy as np  # not at the top: a model is opened, and hashed, before it is imported

        start, at = (np.frombuffer(view, np.uint8).ctypes.data for view in (self.view, part))
        return at - start if start <= at and at + len(part) <= start + self.size else None

    def close(self) -> None:
        """Release the mapping, unless arrays still look into it: then it goes with them."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        try:
            self.view.release()
            if self._mapping is not None:
                self._mapping.close()
        except BufferError:
            pass

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path, absolute and normalised, links not resolved."""
    return Path(os.path.abspath(os.fspath(path)))  # noqa: PTH100 - resolve() would follow links


def open_model(path: Path) -> Opened:
    """Open a model file.

    Raises:
        InputError: `input.not_found`, `input.is_directory`, `input.not_regular`, `input.permission`, `input.empty`,
            `input.wrong_format`.
    """
    opened = _open(path, follow=True)
    if opened.size == 0:
        raise InputError("input.empty", "the file is empty", where=str(path), hint="export or download it again")
    _reject_other_formats(path, bytes(opened.view[:512]))
    return opened


def open_data(model_path: Path, location: str, tensor: str, trust: Trust = DEFAULT_TRUST) -> Opened:
    """Open an external data file that a model names.

    Raises:
        InputError: `extdata.location`, `extdata.escape`, `extdata.link`, `extdata.missing`, or as `open_model`.
    """
    path = _contained(model_path, location, tensor, trust.links)
    try:
        opened = _open(path, follow=False)
    except InputError as error:
        if error.code != "input.not_found":
            raise
        raise InputError(
            "extdata.missing",
            f"the external data file of tensor {tensor!r} is missing",
            where=str(path),
            hint="copy it beside the model; both belong together",
        ) from None
    if trust.untrusted and opened.stamp.links > 1:
        opened.close()
        raise _link_error(path, "a hard link: the file has another name elsewhere", "copy it, or leave out --untrusted")
    return opened


def check_location(location: str, tensor: str) -> None:
    """What can be said about the location of external data without looking at a file system; the same on every system.

    Raises:
        InputError: `extdata.location`, `extdata.escape`.
    """
    if not location or "\0" in location or "\\" in location or len(location) > 4096:
        raise _location_error("extdata.location", location, tensor)
    relative = Path(location)
    if "*" in relative.parts:  # how onnxruntime writes an address in the memory of its process
        raise _location_error("extdata.location", location, tensor)
    if relative.is_absolute() or ".." in relative.parts or (len(location) > 1 and location[1] == ":"):
        raise _location_error("extdata.escape", location, tensor)


def _contained(model_path: Path, location: str, tensor: str, links: Links) -> Path:
    """The real path of the data, if the way there is one that is allowed."""
    check_location(location, tensor)
    path = model_path.parent / location
    try:
        real = Path(os.path.realpath(path))
    except OSError as error:  # a link that goes while it is followed
        raise _open_error(path, error) from None
    if links is Links.DENY and real != Path(os.path.realpath(model_path.parent)) / location:
        raise _link_error(path, "reached through a symbolic link", "copy it beside the model, or pass --links hf")
    if links is Links.ALLOW:
        return real
    roots = (Path(os.path.realpath(model_path.parent)), Path(os.path.realpath(model_path)).parent)
    if not any(real.is_relative_to(root) for root in roots):
        raise _location_error("extdata.escape", location, tensor)
    return real


def _link_error(path: Path, what: str, hint: str) -> InputError:
    return InputError("extdata.link", f"the external data are {what}", where=str(path), hint=hint)


def _location_error(code: str, location: str, tensor: str) -> InputError:
    return InputError(
        code,
        f"tensor {tensor!r} names external data at {location[:80]!r}, which is not a file inside the model's directory",
        hint="save the model again with its data beside it",
    )


def open_stream(path: Path) -> BinaryIO:
    """A regular file that the user named, for reading. A pipe or a device is refused before anybody waits for it.

    Raises:
        InputError: `input.is_directory`, `input.not_regular`.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, _FLAGS)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise InputError("input.is_directory", "this is a directory", where=str(path))
        if not stat.S_ISREG(mode):
            raise _not_regular(path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path) -> bytes:
    """The content of such a file.

    Raises:
        InputError, OSError: as `open_stream`.
    """
    with open_stream(path) as stream:
        return stream.read()


def _not_regular(path: Path) -> InputError:
    return InputError("input.not_regular", "this is not a regular file", where=str(path))


def _open(path: Path, *, follow: bool) -> Opened:
    flags = _FLAGS
    if not follow:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _open_error(path, error) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise _directory_error(path)
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(path)
        if not follow:
            _require_unmoved(path, descriptor)
        return _read(path, descriptor, Stamp.of(status))
    except (OSError, ValueError) as error:  # a mapping of what became shorter in between is a ValueError
        raise InputError("input.unreadable", f"cannot be read: {error}", where=str(path)) from None
    finally:
        os.close(descriptor)


def _require_unmoved(path: Path, descriptor: int) -> None:
    """What was checked is what was opened, even if a directory on the way was exchanged in between."""
    try:
        really = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - this is no path that a user named
    except OSError:
        return  # no such view of descriptors on this system
    if really != str(path):
        raise InputError("extdata.escape", "its directory was exchanged while it was opened", where=str(path))


def _read(path: Path, descriptor: int, stamp: Stamp) -> Opened:
    if stamp.size <= _READ_LIMIT:
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            return Opened(path, memoryview(stream.read(stamp.size)), None, stamp)
    mapping = mmap.mmap(descriptor, stamp.size, access=mmap.ACCESS_READ)
    return Opened(path, memoryview(mapping), mapping, stamp, os.dup(descriptor))


def _open_error(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError("input.not_found", "no such file", where=str(path), hint="check the path")
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError("input.permission", "permission denied", where=str(path))
    if error.errno == errno.ELOOP:
        return InputError("extdata.escape", "this is a symbolic link that changed while it was opened", where=str(path))
    return InputError("input.unreadable", f"cannot be opened: {error.strerror}", where=str(path))


def _directory_error(path: Path) -> InputError:
    models = sorted(entry.name for entry in path.glob("*.onnx"))[:3]
    hint = f"did you mean {path / models[0]}?" if models else "name the .onnx file itself"
    return InputError("input.is_directory", "this is a directory", where=str(path), hint=hint)


def _reject_other_formats(path: Path, head: bytes) -> None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, what, hint in _LOOKS_LIKE:
        if (text.lower() if magic[:1] in b"<{v" else head).startswith(magic):
            raise InputError(
                "input.wrong_format", f"this looks like {what}, not an ONNX model", where=str(path), hint=hint
            )
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < _SAFETENSORS_HEADER:
        raise InputError("input.wrong_format", "this is a safetensors file, not an ONNX model", where=str(path))
    if head[4:8] in _FORMATS_AT_4:
        raise InputError(
            "input.wrong_format", f"this is {_FORMATS_AT_4[head[4:8]]}, not an ONNX model", where=str(path)
        )
