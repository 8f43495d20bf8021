"""Writing past the page cache: whatever the file system can and cannot do, the bytes are the same."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normfold.model import direct
from normfold.model.direct import PAGE, WORTH_IT, DirectFile

SIZE = WORTH_IT + 3 * PAGE + 17


def content(size: int) -> bytes:
    """No two pages alike."""
    return b"".join(i.to_bytes(4, "little") for i in range(size // 4 + 1))[:size]


@pytest.fixture(params=["file system", "any file system"])
def target(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A new file; `any file system` has something that behaves as O_DIRECT does, whatever the machine has."""
    if request.param == "any file system":
        monkeypatch.setattr(direct, "_opened", os.dup)
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def pages(data: bytes) -> memoryview:
    """The bytes in memory that begins at a page."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memoryview(memory)


def written(file: DirectFile, target: int, size: int, write: Callable[[], Any]) -> bytes:
    write()
    file.close()
    return os.pread(target, size, 0)


def put(file: DirectFile, target: int, data: bytes, at: int = 0) -> None:
    """As an output file does: what is left goes through the page cache."""
    done = file.write(pages(data), at)
    os.pwrite(target, data[done:], at + done)


def test_whole_pages_go_past_the_cache_and_the_rest_is_said(target: int) -> None:
    file = DirectFile(target, SIZE)
    data = content(SIZE)
    if file.works:
        assert file.write(pages(data), 0) == SIZE - 17
    assert written(file, target, SIZE, lambda: put(file, target, data)) == data


def test_a_small_file_does_without(target: int) -> None:
    file = DirectFile(target, WORTH_IT - 1)
    assert not file.works
    assert file.write(pages(content(PAGE)), 0) == 0
    assert os.fstat(target).st_size == 0, "not made longer either"


def test_a_file_that_nobody_waits_for_goes_through_the_page_cache(target: int) -> None:
    file = DirectFile(target, SIZE, waits=False)
    assert not file.works
    assert file.write(pages(content(SIZE)), 0) == 0


def test_without_o_direct_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    file = DirectFile(descriptor, SIZE)
    assert not file.works
    assert file.write(pages(content(PAGE)), 0) == 0
    os.close(descriptor)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 3 * PAGE), min_size=1, max_size=8),
    chunk=st.sampled_from((PAGE, 2 * PAGE, 8 * PAGE)),
    at=st.integers(0, 3).map(lambda pages: pages * PAGE),
)
def test_blocks_of_any_size_end_up_in_a_row(sizes: list[int], chunk: int, at: int, tmp_path_factory: Any) -> None:
    blocks = [bytes((i * 31 + k) % 251 for k in range(size)) for i, size in enumerate(sizes)]
    descriptor = os.open(tmp_path_factory.mktemp("blocks") / "out", os.O_RDWR | os.O_CREAT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "_CHUNK", chunk)
        patch.setattr(direct, "_opened", os.dup)
        file = DirectFile(descriptor, SIZE)
        for rest, place in file.write_blocks(map(memoryview, blocks), at):
            assert len(rest) < PAGE, "only the end of the last page is left"
            os.pwrite(descriptor, rest, place)
        file.close()
    joined = b"".join(blocks)
    assert os.pread(descriptor, len(joined), at) == joined
    os.close(descriptor)


class Failing:
    """`os.pwrite`, which from some call on answers as a file system may."""

    def __init__(self, after: int, answer: int | OSError, only: Callable[[int], bool]) -> None:
        self.after, self.answer, self.only = after, answer, only
        self.calls = 0
        self.real = os.pwrite

    def __call__(self, descriptor: int, data: Any, at: int) -> int:
        if not self.only(descriptor):
            return self.real(descriptor, data, at)
        self.calls += 1
        if self.calls <= self.after:
            return self.real(descriptor, data, at)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.real(descriptor, memoryview(data)[: self.answer], at)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("answer", [OSError(errno.EINVAL, "no"), OSError(errno.EOPNOTSUPP, "no"), 1000, PAGE, PAGE + 5])
def test_what_the_file_system_refuses_goes_through_the_page_cache(
    target: int, after: int, answer: int | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_CHUNK", 64 * PAGE)
    file = DirectFile(target, 2 * SIZE)
    monkeypatch.setattr(os, "pwrite", Failing(after, answer, lambda descriptor: descriptor != target))
    first, second = content(SIZE), content(SIZE)[::-1]

    def write() -> None:
        put(file, target, first)
        for rest, place in file.write_blocks([memoryview(second)], PAGE * (SIZE // PAGE + 1)):
            os.pwrite(target, rest, place)

    found = written(file, target, 2 * SIZE + PAGE, write)
    assert found[:SIZE] == first
    assert found[PAGE * (SIZE // PAGE + 1) :] == second


@pytest.mark.parametrize(
    ("said", "meant"), [(errno.ENOSPC, errno.ENOSPC), (errno.EIO, errno.EIO), (errno.EFAULT, errno.EIO)]
)
def test_a_full_or_broken_disk_and_a_shorter_source_are_errors(
    target: int, said: int, meant: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_opened", os.dup)
    file = DirectFile(target, SIZE)
    monkeypatch.setattr(os, "pwrite", Failing(0, OSError(said, "no"), lambda _: True))
    with pytest.raises(OSError, match=r"no|shorter") as caught:
        file.write(pages(content(SIZE)), 0)
    assert caught.value.errno == meant
    file.close()


def test_a_file_system_that_shares_blocks_is_asked_once(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    asked: list[bytes] = []

    def ioctl(_descriptor: int, _request: int, argument: bytes) -> int:
        asked.append(argument)
        if len(asked) > 1:
            raise OSError(errno.EOPNOTSUPP, "no")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    file = DirectFile(target, SIZE)
    assert file.clone(7, PAGE, 2 * PAGE, 4 * PAGE)
    assert int.from_bytes(asked[0][8:16], "little") == PAGE
    assert not file.clone(7, PAGE, 2 * PAGE, 4 * PAGE)
    assert not file.clone(7, PAGE, 2 * PAGE, 4 * PAGE)
    assert len(asked) == 2, "one refusal is enough"
    file.close()
