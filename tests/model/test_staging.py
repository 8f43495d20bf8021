"""Several runs and one directory: nobody sweeps, overwrites or waits for what is not his."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from normfold.errors import OutputError
from normfold.model import held, staging
from normfold.model.held import exclusive, hold
from normfold.model.patch import Candidate
from normfold.model.staging import cannot_write
from normfold.model.write import Staging, commit, stage
from tests.model.test_write import candidate_of, listing, load, saved


@pytest.fixture
def dead():
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def litter(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".normfold")]


# --- sweeping ---


def test_what_a_run_in_another_container_holds_stays(tmp_path, dead, monkeypatch):
    """Its process number means nothing here: only the lock says that it lives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: dead)
        other = Staging(tmp_path)
    with other:
        with Staging(tmp_path):
            assert other.path.is_dir()
        assert litter(tmp_path) == [other.path.name]
    assert litter(tmp_path) == []


def test_a_directory_that_is_swept_before_it_is_held_is_made_again(tmp_path, monkeypatch):
    real, count = staging.hold, 0

    def first_time_lost(path):
        nonlocal count
        count += 1
        if count == 1:
            path.rmdir()
        return real(path)

    monkeypatch.setattr(staging, "hold", first_time_lost)
    with Staging(tmp_path) as mine:
        assert mine.path.is_dir()
        assert litter(tmp_path) == [mine.path.name]
    assert litter(tmp_path) == []


def test_a_directory_that_is_always_taken(tmp_path, monkeypatch):
    def taken(_):
        raise held.Taken

    monkeypatch.setattr(staging, "hold", taken)
    with pytest.raises(OutputError) as caught, Staging(tmp_path):
        pass
    assert caught.value.code == "output.unwritable"
    assert litter(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    source = saved(tmp_path)
    with Staging(tmp_path) as mine:
        commit(stage(candidate_of(source), mine, "r.onnx"), tmp_path / "r.onnx")
    assert (tmp_path / "r.onnx").exists()
    assert litter(tmp_path) == []


def test_a_lock_leaves_no_descriptor(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Staging(tmp_path), exclusive(tmp_path, 1), pytest.raises(held.Taken):
        hold(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- committing ---


def _hold_directory(path, ready, done):
    with exclusive(Path(path), 1):
        ready.set()
        done.wait(30)


def test_two_commits_into_one_directory_follow_each_other(tmp_path, monkeypatch):
    source = saved(tmp_path)
    monkeypatch.setattr(staging, "_COMMIT_SECONDS", 0.2)
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold_directory, args=(str(tmp_path), ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with Staging(tmp_path) as mine:
            staged = stage(candidate_of(source), mine, "r.onnx")
            before = listing(tmp_path)
            with pytest.raises(OutputError) as caught:
                commit(staged, tmp_path / "r.onnx")
            assert caught.value.code == "output.locked"
            assert listing(tmp_path) == before
            monkeypatch.setattr(staging, "_COMMIT_SECONDS", 30.0)
            threading.Timer(0.2, done.set).start()
            commit(staged, tmp_path / "r.onnx")
    finally:
        done.set()
        other.join(30)
    assert (tmp_path / "r.onnx").exists()


@pytest.mark.parametrize("fold", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, fold):
    """Between choosing a name and taking it, somebody else takes it."""
    source, out = saved(tmp_path / "in", fold=fold), tmp_path / "out"
    out.mkdir()
    with Staging(out) as mine:
        candidate = candidate_of(source) if fold else Candidate(load(source), {}, {})
        staged = stage(candidate, mine, "r.onnx")
        name = staged.data or "w.data"
        (out / name).write_bytes(b"precious")
        with pytest.raises(OutputError) as caught:
            commit(staged, out / "r.onnx")
        assert caught.value.code == "output.data_exists"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {name: b"precious"}


def test_an_equal_file_is_compared_once(tmp_path, monkeypatch):
    source = saved(tmp_path)
    for _ in range(2):
        with Staging(tmp_path) as mine:
            staged = stage(candidate_of(source), mine, "r.onnx")
            monkeypatch.setattr(staging.filecmp, "cmp", None)
            commit(staged, tmp_path / "r.onnx")
        monkeypatch.undo()


def test_every_directory_that_got_a_file_is_on_the_disk_before_the_model(tmp_path, monkeypatch):
    source, out = saved(tmp_path / "in", fold=False, location="deep/er/w.data"), tmp_path / "out"
    out.mkdir()
    synced, real = [], staging._sync_directory

    def watched(folder):
        synced.append((str(folder.relative_to(out)), (out / "r.onnx").exists()))
        real(folder)

    monkeypatch.setattr(staging, "_sync_directory", watched)
    with Staging(out) as mine:
        commit(stage(Candidate(load(source), {}, {}), mine, "r.onnx"), out / "r.onnx")
    assert synced == [(".", False), ("deep", False), ("deep/er", False), (".", True)]


def test_data_that_cannot_be_seen_are_not_left_out(tmp_path, monkeypatch):
    """Listing a directory may fail for a moment, and pathlib keeps quiet about some of these failures."""
    source, out = saved(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    with Staging(out) as mine:
        staged = stage(candidate_of(source), mine, "r.onnx")

        def denied(*_):
            raise PermissionError(errno.EACCES, "denied")

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", denied)
            patch.setattr(os, "listdir", denied)
            commit(staged, out / "r.onnx")
    assert set(listing(out)) == {"r.onnx", staged.data}


# --- what a disk says ---


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_much_is_needed(tmp_path, monkeypatch, number):
    source = saved(tmp_path)

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OutputError) as caught, Staging(tmp_path) as mine:
        stage(candidate_of(source), mine, "r.onnx")
    assert caught.value.code == "output.unwritable"
    assert "MiB are needed" in caught.value.message
    assert "MiB are free" in caught.value.message
    assert litter(tmp_path) == []


def test_other_errors_say_nothing_about_space(tmp_path):
    assert "MiB" not in cannot_write(tmp_path, PermissionError(errno.EACCES, "no"), 100).message
    assert "MiB" not in cannot_write(tmp_path, OSError(errno.EFBIG, "large"), 100).message  # a limit, not a full disk
    assert "MiB" not in cannot_write(tmp_path, OSError(errno.ENOSPC, "full")).message


def test_a_destination_that_goes_away(tmp_path):
    source, out = saved(tmp_path / "in"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(OutputError) as caught, Staging(out) as mine:
        staged = stage(candidate_of(source), mine, "r.onnx")
        out.rename(tmp_path / "elsewhere")
        commit(staged, out / "r.onnx")
    assert caught.value.code == "output.unwritable"
    assert not out.exists()


def test_a_name_as_long_as_names_may_be(tmp_path):
    """The model's own name fits, that of its data does not."""
    source, name = saved(tmp_path / "in"), "n" * 250 + ".onnx"
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError) as caught, Staging(tmp_path / "out") as mine:
        commit(stage(candidate_of(source), mine, name), tmp_path / "out" / name)
    assert caught.value.code == "output.unwritable"
    assert list((tmp_path / "out").iterdir()) == []
