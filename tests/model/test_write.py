"""Files: one transaction for model and data, nothing foreign touched, nothing left behind."""

from __future__ import annotations

import builtins
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from normfold.errors import InputError, OutputError
from normfold.model import direct, opener, output_file
from normfold.model import source as source_file
from normfold.model.load import load
from normfold.model.patch import Candidate
from normfold.model.tensors import RangeRefusal
from normfold.model.write import DATA_KEY, Staging, commit, stage, to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.planner import Exclusions, make_plan

from .build import conv_bn, net, node, run


def external(name, array, location, offset, length=True):
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset), **({"length": str(array.nbytes)} if length else {})}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def saved(folder, *, name="m.onnx", location="w.data", fold=True, constant=False):
    """A Conv + BN (or only the Conv) and a MatMul with two tied weights, all weights in one data file."""
    folder.mkdir(parents=True, exist_ok=True)
    nodes, weights = conv_bn("a", "x", "t", channels=32)
    if not fold:
        nodes, weights = [node("Conv", ["x", "a.w"], ["t"], pads=[1, 1, 1, 1])], {"a.w": weights["a.w"]}
    rng = np.random.default_rng(1)
    big = rng.normal(size=(150, 150)).astype(np.float32)
    nodes += [
        node("MatMul", ["t", "tied"], ["u"]),
        node("Relu", ["u"], ["r"]),
        node("MatMul", ["r", "again"], ["v"]),
        node("Add", ["v", "odd"], ["y"]),
    ]
    blob, tensors = bytearray(b"pad"), {}
    for key, array in {**weights, "tied": big, "odd": np.float32([1])}.items():
        tensors[key] = external(key, array, location, len(blob), length=key != "a.w")
        blob += array.tobytes() + b"\xff"
        if key == "tied":
            tensors["again"] = external("again", array, location, len(blob) - array.nbytes - 1)
    if constant:
        array = np.arange(2000, dtype=np.float32)
        tensor = external("", array, location, len(blob))
        blob += array.tobytes()
        nodes.append(helper.make_node("Constant", [], ["c"], value=tensor))
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    (folder / location).write_bytes(bytes(blob))
    outputs = ["y", "c"] if constant else ["y"]
    model = net(nodes, {"x": [1, 32, 4, 150]}, outputs, tensors)
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def candidate_of(source):
    model = load(source)
    return apply(model, make_plan(model, Exclusions({})), {"pkg.normfold.version": "test"})


def optimise(source, destination, durable=True):
    with Staging(destination.parent, durable=durable) as staging:
        staged = stage(candidate_of(source), staging, destination.name)
        commit(staged, destination)
    return staged


def listing(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def result_of(path):
    x = np.random.default_rng(5).normal(size=(1, 32, 4, 150)).astype(np.float32)
    return run(path, {"x": x})[0]


def test_external_data_goes_to_one_file_named_after_its_content(tmp_path):
    source = saved(tmp_path / "in", constant=True)
    before = listing(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    optimise(source, out / "r.onnx")
    assert listing(tmp_path / "in") == before
    model = onnx.load(out / "r.onnx", load_external_data=False)
    (data,) = [p for p in out.iterdir() if p.suffix == ".data"]
    assert re.fullmatch(r"r\.[0-9a-f]{16}\.data", data.name)
    assert {e.key: e.value for e in model.metadata_props}[DATA_KEY] == data.name
    places = {}
    for tensor in [*model.graph.initializer, model.graph.node[-1].attribute[0].t]:
        if tensor.data_location == TensorProto.EXTERNAL:
            record = {e.key: e.value for e in tensor.external_data}
            assert record["location"] == data.name
            size = int(np.prod(tensor.dims)) * 4
            assert int(record["length"]) == size
            assert int(record["offset"]) % (4096 if size >= 1 << 16 else 64) == 0
            places[tensor.name] = int(record["offset"])
    assert places["tied"] == places["again"]
    assert len(set(places.values())) == len(places) - 1
    np.testing.assert_allclose(result_of(source), result_of(out / "r.onnx"), rtol=1e-3, atol=0.02)
    assert len([n for n in model.graph.node if n.op_type == "BatchNormalization"]) == 0


@pytest.mark.parametrize("position", [0, 1, 4])
def test_an_empty_tensor_does_not_take_the_place_of_the_next_one(tmp_path, position):
    """As the roi of a Resize that stands in the data file: it has no bytes, so the next one begins where it does."""
    source = saved(tmp_path / "in")
    model = onnx.load(source, load_external_data=False)
    empty = external("empty", np.zeros(0, np.float32), "w.data", 3)
    del empty.external_data[2:]  # onnx reads a length of 0 as "to the end"
    tensors = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend([*tensors[:position], empty, *tensors[position:]])
    source.write_bytes(model.SerializeToString())
    optimise(source, tmp_path / "in" / "r.onnx")
    after = {t.name: t for t in onnx.load(tmp_path / "in" / "r.onnx").graph.initializer}
    big = np.random.default_rng(1).normal(size=(150, 150)).astype(np.float32)
    for name, array in {"tied": big, "again": big, "odd": np.float32([1]), "empty": np.zeros(0, np.float32)}.items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(after[name]), array)
    assert result_of(tmp_path / "in" / "r.onnx").shape


def test_the_second_run_on_the_result_changes_nothing(tmp_path):
    source = saved(tmp_path / "in")
    optimise(source, tmp_path / "in" / "r.onnx")
    first = listing(tmp_path / "in")
    optimise(tmp_path / "in" / "r.onnx", tmp_path / "in" / "r.onnx")
    assert listing(tmp_path / "in") == first
    optimise(source, tmp_path / "in" / "r.onnx")
    assert listing(tmp_path / "in") == first


@pytest.mark.parametrize("location", ["w.data", "deep/er/w.data"])
def test_an_unchanged_model_takes_its_data_along(tmp_path, location):
    source = saved(tmp_path / "in", fold=False, location=location)
    (tmp_path / "out").mkdir()
    optimise(source, tmp_path / "out" / "m.onnx")
    assert listing(tmp_path / "out") == listing(tmp_path / "in")


def test_an_unchanged_model_beside_itself_shares_its_data(tmp_path):
    source = saved(tmp_path / "in", fold=False)
    inode = (tmp_path / "in" / "w.data").stat().st_ino
    optimise(source, tmp_path / "in" / "r.onnx")
    assert (tmp_path / "in" / "w.data").stat().st_ino == inode
    assert not (tmp_path / "in" / "w.data").is_symlink()
    assert set(listing(tmp_path / "in")) == {"m.onnx", "w.data", "r.onnx"}


def test_a_foreign_file_of_that_name_is_not_overwritten(tmp_path):
    source = saved(tmp_path / "in", fold=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w.data").write_bytes(b"somebody else's")
    with pytest.raises(OutputError) as caught:
        optimise(source, tmp_path / "out" / "m.onnx")
    assert caught.value.code == "output.data_exists"
    assert listing(tmp_path / "out") == {"w.data": hashlib.sha256(b"somebody else's").hexdigest()}


def test_foreign_data_files_stay(tmp_path, monkeypatch):
    source = saved(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("r.data", "r.onnx.data", "r.0123456789abcdef.data", "other.tmp", ".normfold.notes"):
        (out / name).write_bytes(b"foreign")
    monkeypatch.chdir(out)
    optimise(source, out / "r.onnx")
    assert all((out / name).read_bytes() == b"foreign" for name in ("r.data", "r.onnx.data", "other.tmp"))
    assert (out / "r.0123456789abcdef.data").read_bytes() == b"foreign"
    assert (out / ".normfold.notes").exists()


def test_a_data_file_of_the_right_name_and_other_content_is_not_used(tmp_path):
    source = saved(tmp_path / "in")
    optimise(source, tmp_path / "in" / "r.onnx")
    good = result_of(tmp_path / "in" / "r.onnx")
    (data,) = (tmp_path / "in").glob("r.*.data")
    size = data.stat().st_size
    for torn in (b"short", bytes(size)):
        data.write_bytes(torn)
        optimise(source, tmp_path / "in" / "r.onnx")
        np.testing.assert_array_equal(result_of(tmp_path / "in" / "r.onnx"), good)


def test_in_memory_the_data_is_taken_in(tmp_path):
    source = saved(tmp_path / "in", constant=True)
    model = onnx.load_from_string(to_bytes(candidate_of(source)))
    tensors = [*model.graph.initializer, model.graph.node[-1].attribute[0].t]
    assert not any(t.data_location == TensorProto.EXTERNAL or t.external_data for t in tensors)
    original = onnx.load(source)
    tied = {t.name: t for t in model.graph.initializer}["tied"]
    assert tied.raw_data == next(t for t in original.graph.initializer if t.name == "tied").raw_data
    np.testing.assert_allclose(result_of(source), result_of(model), rtol=1e-3, atol=0.02)
    untouched = saved(tmp_path / "plain", fold=False)
    kept = onnx.load_from_string(to_bytes(candidate_of(untouched)))
    assert not any(t.data_location == TensorProto.EXTERNAL for t in kept.graph.initializer)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, umask):
    source = saved(tmp_path / "in")
    (tmp_path / "out").mkdir()
    old = os.umask(umask)
    try:
        optimise(source, tmp_path / "out" / "m.onnx")
    finally:
        os.umask(old)
    for path in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_missing_and_truncated_data(tmp_path):
    source = saved(tmp_path / "in")
    data = tmp_path / "in" / "w.data"
    whole = data.read_bytes()
    (tmp_path / "out").mkdir()
    data.write_bytes(whole[:-40000])
    with pytest.raises(InputError) as caught:
        optimise(source, tmp_path / "out" / "m.onnx")
    assert caught.value.code == "extdata.truncated"
    data.unlink()
    with pytest.raises(InputError) as caught:
        optimise(source, tmp_path / "out" / "m.onnx")
    assert caught.value.code == "extdata.missing"
    assert list((tmp_path / "out").iterdir()) == []


def test_the_staging_directory_is_gone_after_success_and_failure(tmp_path):
    with Staging(tmp_path) as staging:
        assert staging.path.is_dir()
        (staging.path / "sub").mkdir()
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_stale_staging_directories_are_swept(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = tmp_path / f".normfold.{gone.pid}.0badcafe.tmp"
    living = tmp_path / f".normfold.{os.getppid()}.0badcafe.tmp"
    kept = [living, tmp_path / ".normfold.x.y.tmp", tmp_path / ".normfold.tmp", tmp_path / f"normfold.{gone.pid}.a.tmp"]
    for folder in (stale, *kept):
        folder.mkdir()
        (folder / "f").write_text("x")
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("x")
    (tmp_path / f".normfold.{gone.pid}.link0000.tmp").symlink_to(elsewhere)
    with Staging(tmp_path):
        pass
    assert not stale.exists()
    assert all(folder.exists() for folder in kept)
    assert (elsewhere / "file").exists()


def test_a_second_attempt_replaces_the_first_in_the_staging_directory(tmp_path):
    source = saved(tmp_path / "in", fold=False, location="deep/w.data")
    (tmp_path / "out").mkdir()
    with Staging(tmp_path / "out") as staging:
        stage(candidate_of(source), staging, "m.onnx")
        staged = stage(candidate_of(source), staging, "m.onnx")
        commit(staged, tmp_path / "out" / "m.onnx")
    assert listing(tmp_path / "out") == listing(tmp_path / "in")


def test_a_missing_destination_folder(tmp_path):
    with pytest.raises(OutputError) as caught, Staging(tmp_path / "none"):
        pass
    assert caught.value.code == "output.unwritable"


def test_superseded_data_goes_only_when_it_is_not_the_new_one(tmp_path):
    source = saved(tmp_path / "in")
    out = tmp_path / "in" / "r.onnx"
    (tmp_path / "in" / "r.old.data").write_bytes(b"ours")
    with Staging(out.parent) as staging:
        commit(stage(candidate_of(source), staging, out.name), out, "r.old.data")
    assert not (tmp_path / "in" / "r.old.data").exists()
    (data,) = (tmp_path / "in").glob("r.*.data")
    with Staging(out.parent) as staging:
        commit(stage(candidate_of(source), staging, out.name), out, data.name)
    assert data.exists()
    np.testing.assert_allclose(result_of(source), result_of(out), rtol=1e-3, atol=0.02)


@pytest.mark.parametrize("fold", [True, False])
def test_without_durability_nobody_waits_for_the_disk_and_the_result_is_the_same(tmp_path, monkeypatch, fold):
    source = saved(tmp_path / "in", fold=fold, constant=True)
    waited = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (waited.append(descriptor), real(descriptor)))
    for durable in (True, False):
        (tmp_path / str(durable)).mkdir()
        waited.clear()
        optimise(source, tmp_path / str(durable) / "m.onnx", durable)
        assert bool(waited) is durable
    assert listing(tmp_path / "True") == listing(tmp_path / "False")


# --- every call of the system fails once ---

WATCHED = [
    (os, "replace"),
    (os, "rename"),
    (os, "fsync"),
    (os, "open"),
    (os, "write"),
    (os, "pwrite"),
    (os, "copy_file_range"),
    (os, "pread"),
    (os, "mkdir"),
    (os, "stat"),
    (os, "fstat"),
    (os, "scandir"),
    (os, "ftruncate"),
    (fcntl, "flock"),
    (Path, "replace"),
    (Path, "rename"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (Path, "symlink_to"),
]


class Trap:
    """Counts watched calls, and fails or dies at the n-th."""

    def __init__(self, monkeypatch, at=None, fault=None):
        self.count, self.at, self.fault = 0, at, fault
        for owner, name in WATCHED:
            monkeypatch.setattr(owner, name, self.watched(getattr(owner, name)))
        monkeypatch.setattr(os, "fdopen", self.streams(os.fdopen))
        monkeypatch.setattr(shutil, "rmtree", self.unwatched(shutil.rmtree))

    def tick(self):
        self.count += 1
        if self.at == self.count:
            raise self.fault

    def unwatched(self, real):
        """Cleaning up is not part of the transaction; where it fails, the next run sweeps."""

        def call(*args, **kwargs):
            at, self.at = self.at, None
            count = self.count
            try:
                return real(*args, **kwargs)
            finally:
                self.at, self.count = at, count

        return call

    def watched(self, real):
        def call(*args, **kwargs):
            self.tick()
            return real(*args, **kwargs)

        return call

    def streams(self, real):
        trap = self

        def call(descriptor, mode="r", *args, **kwargs):
            stream = real(descriptor, mode, *args, **kwargs)
            return stream if "w" not in mode else Stream(stream, trap)

        return call


class Stream:
    def __init__(self, real, trap):
        self.real, self.trap = real, trap

    def write(self, data):
        self.trap.tick()
        return self.real.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.real.close()

    def __getattr__(self, name):
        return getattr(self.real, name)


class Killed(BaseException):
    """Stands for the end of the process: nothing may handle it."""


def complete_pair(folder, name, allowed):
    """The model at the destination and its data are one of the allowed results."""
    model = onnx.load(folder / name, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            assert entry.key != "location" or (folder / entry.value).exists()
    got = result_of(folder / name)
    return any(np.array_equal(got, expected) for expected in allowed)


def prepared(tmp_path):
    """A destination with an old pair in it; the old and the new result."""
    source, out = saved(tmp_path / "in"), tmp_path / "out"
    saved(out, name="r.onnx", location="r.old.data")
    old = result_of(out / "r.onnx")
    optimise(source, tmp_path / "in" / "r.onnx")
    new = result_of(tmp_path / "in" / "r.onnx")
    assert not np.array_equal(old, new)
    return source, out, old, new


def attempt(candidate, out):
    staging = Staging(out)
    try:
        with staging:
            staged = stage(candidate, staging, "r.onnx")
            commit(staged, out / "r.onnx", "r.old.data")
    except Killed:
        if staging._held is not None:  # the system does that for a process that is gone
            os.close(staging._held)
        raise


def calls(tmp_path):
    source, out, _, _ = prepared(tmp_path / "count")
    with pytest.MonkeyPatch.context() as patch:
        trap = Trap(patch)
        attempt(candidate_of(source), out)
    return trap.count


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_failure_anywhere_leaves_a_complete_pair_and_no_litter(tmp_path, number):
    total = calls(tmp_path)
    source, out, old, new = prepared(tmp_path / "run")
    before = listing(out)
    failed = 0
    for at in range(1, total + 1):
        candidate = candidate_of(source)
        with pytest.MonkeyPatch.context() as patch:
            Trap(patch, at, OSError(number, os.strerror(number)))
            try:
                attempt(candidate, out)
            except (OutputError, InputError) as error:
                failed += 1
                assert "\n" not in str(error)
                if "nothing was changed" in str(error):
                    assert np.array_equal(result_of(out / "r.onnx"), old), at
        assert not [p for p in out.iterdir() if p.name.startswith(".normfold")], at
        assert complete_pair(out, "r.onnx", (old, new)), at
        if "r.old.data" in listing(out):
            for name in set(listing(out)) - set(before):
                (out / name).unlink()  # data that no model names yet: found again by its content, not litter
        else:
            saved(out, name="r.onnx", location="r.old.data")
            for extra in set(listing(out)) - set(before):
                (out / extra).unlink()
    # Looking for litter, taking a lock where there are none, and removing superseded data may fail.
    assert failed > 0.7 * total


def test_death_anywhere_leaves_a_complete_pair_and_litter_that_the_next_run_sweeps(tmp_path):
    total = calls(tmp_path)
    source, out, old, new = prepared(tmp_path / "run")
    pid = subprocess.Popen([sys.executable, "-c", ""])
    pid.wait()
    deaths = 0
    for at in range(1, total + 1):
        candidate = candidate_of(source)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid.pid)
            Trap(patch, at, Killed())
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a dead process cleans nothing up
            try:
                attempt(candidate, out)
            except Killed:
                deaths += 1
        assert complete_pair(out, "r.onnx", (old, new)), at
        with Staging(out):
            pass
        assert not [p for p in out.iterdir() if p.name.startswith(".normfold")]
        saved(out, name="r.onnx", location="r.old.data")
    assert deaths > 0.7 * total  # what an earlier death left in place need not be done again


def test_a_refused_weight_leaves_nothing(tmp_path):
    nodes, weights = conv_bn("a", "x", "y")
    weights["a.w"] = weights["a.w"].astype(np.float16)
    weights = {k: v.astype(np.float16) for k, v in weights.items()}
    weights["a.scale"][:] = 60000
    weights["a.w"][:] = 100
    weights["a.var"][:] = 0
    model = net(nodes, {"x": [1, 4, 5, 5]}, ["y"], weights, elem=TensorProto.FLOAT16)
    candidate = candidate_of(model)
    if not candidate.is_original:
        with pytest.raises(RangeRefusal), Staging(tmp_path) as staging:
            stage(candidate, staging, "r.onnx")
    assert list(tmp_path.iterdir()) == []


def test_staging_an_unchanged_model_keeps_its_bytes(tmp_path):
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"])
    data = model.SerializeToString() + b"\xa2\x80\x01\x03abc"
    (tmp_path / "m.onnx").write_bytes(data)
    with Staging(tmp_path) as staging:
        staged = stage(Candidate(load(tmp_path / "m.onnx"), {}, {}), staging, "r.onnx")
        commit(staged, tmp_path / "r.onnx")
    assert (tmp_path / "r.onnx").read_bytes() == data


def test_the_input_may_be_the_output(tmp_path, monkeypatch):
    """The mapped input is replaced, never written over."""
    monkeypatch.setattr(opener, "_READ_LIMIT", 100)
    source = saved(tmp_path)
    expected = result_of(source)
    optimise(source, source)
    np.testing.assert_allclose(result_of(source), expected, rtol=1e-3, atol=0.02)
    assert (tmp_path / "w.data").exists()


def test_writes_open_nothing_by_builtin_open(tmp_path, monkeypatch):
    """All writing goes through one function, so that modes and exclusive creation hold everywhere."""
    source = saved(tmp_path / "in")
    (tmp_path / "out").mkdir()
    candidate = candidate_of(source)

    def forbidden(*_, **__):
        raise AssertionError("open() was called")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", forbidden)
        with Staging(tmp_path / "out") as staging:
            commit(stage(candidate, staging, "m.onnx"), tmp_path / "out" / "m.onnx")


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("fold", [True, False])
def test_a_mapped_model_is_moved_and_not_held(tmp_path, monkeypatch, kernel, fold):
    """One file, larger than what is read at once: the same bytes whether the kernel copies or not, hashed in blocks."""
    nodes, weights = conv_bn("a", "x", "t", channels=8)
    big = np.random.default_rng(3).normal(size=(1100, 1000)).astype(np.float32)
    model = net([*nodes, node("MatMul", ["t", "big"], ["y"])], {"x": [1, 8, 4, 1100]}, ["y"], {**weights, "big": big})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    expected = to_bytes(candidate_of(tmp_path / "m.onnx")) if fold else model.SerializeToString()
    monkeypatch.setattr(opener, "_READ_LIMIT", 100)
    monkeypatch.setattr(source_file, "_KEEP", 100)
    monkeypatch.setattr(source_file, "_BLOCK", 5000)
    monkeypatch.setattr(output_file, "_COPY", 1 << 20)
    moved = []
    if kernel:
        real = os.copy_file_range
        monkeypatch.setattr(os, "copy_file_range", lambda *a: moved.append(a) or real(*a))
    else:
        monkeypatch.delattr(os, "copy_file_range")
    opened = source_file.Source(tmp_path / "m.onnx")
    loaded = load(opened)
    candidate = apply(loaded, make_plan(loaded, Exclusions({})), {"pkg.normfold.version": "test"})
    if not fold:
        candidate = Candidate(loaded, {}, {})
    with Staging(tmp_path) as staging:
        commit(stage(candidate, staging, "r.onnx"), tmp_path / "r.onnx")
    assert (tmp_path / "r.onnx").read_bytes() == expected
    assert bool(moved) is kernel
    assert opened.fingerprint.hexdigest() == hashlib.sha256(model.SerializeToString()).hexdigest()


@pytest.mark.parametrize("way", ["past the cache", "through the cache", "without O_DIRECT"])
def test_large_tensors_have_the_same_bytes_whichever_way_they_go(tmp_path, monkeypatch, way):
    """Kept and computed ones, none a whole number of pages; on the side a small one and a large one off the page."""
    random = np.random.default_rng(5)
    shapes = {"first": (1025, 1031), "second": (700, 1025), "odd": (513, 700)}
    values = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    offsets = {"first": 0, "second": 4096 * 1100, "odd": 4096 * 1900 + 4}
    with (tmp_path / "w.data").open("wb") as stream:
        for name, array in values.items():
            stream.seek(offsets[name])
            stream.write(array.tobytes())
    inits = {name: external(name, array, "w.data", offsets[name]) for name, array in values.items()}
    norm = {key: np.abs(random.normal(size=1025)).astype(np.float32) for key in ("g", "b", "m", "v")}
    nodes = [
        node("Relu", ["x"], ["r"]), node("MatMul", ["r", "odd"], ["s"]), node("Relu", ["s"], ["t"]),
        node("MatMul", ["t", "second"], ["u"]), node("BatchNormalization", ["u", "g", "b", "m", "v"], ["n"]),
        node("Relu", ["n"], ["z"]), node("MatMul", ["z", "first"], ["y"]),
    ]  # fmt: skip
    model = net(nodes, {"x": [2, 513]}, ["y"], norm)
    model.graph.initializer.extend(inits.values())
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    if way == "past the cache":
        monkeypatch.setattr(direct, "_opened", os.dup)  # whatever the file system of the test can do
    elif way == "through the cache":
        monkeypatch.setattr(direct, "_opened", lambda _: None)
    else:
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    optimise(tmp_path / "m.onnx", tmp_path / "r.onnx")
    result = onnx.load(tmp_path / "r.onnx")
    kept = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    np.testing.assert_array_equal(kept["first"], values["first"])
    np.testing.assert_array_equal(kept["odd"], values["odd"])
    factor = norm["g"].astype(np.float64) / np.sqrt(norm["v"].astype(np.float64) + float(np.float32(1e-5)))
    folded = (values["second"].astype(np.float64) * factor).astype(np.float32)
    assert any(array.shape == folded.shape and np.array_equal(array, folded) for array in kept.values())
