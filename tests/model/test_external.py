"""External data files: few are open at a time, and none may change while it is read."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import StringStringEntryProto, TensorProto

import normfold
from normfold import Config, InputError, pipeline
from normfold.model import external, opener
from normfold.model.load import load
from normfold.model.opener import open_data
from tests.model.build import conv_bn, net, node

SIZE = 12


def outside(name, location, values, **entries):
    tensor = TensorProto(name=name, dims=values.shape, data_type=1, data_location=TensorProto.EXTERNAL)
    given = {"location": location, **entries}
    tensor.external_data.extend(StringStringEntryProto(key=k, value=v) for k, v in given.items())
    return tensor


def many(folder, count, **entries):
    """A model of so many tensors, each in a file of its own."""
    tensors = {}
    for i in range(count):
        values = np.full(SIZE, i, np.float32)
        (folder / f"{i}.data").write_bytes(values.tobytes())
        tensors[f"w{i}"] = outside(f"w{i}", f"{i}.data", values, **entries)
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], tensors)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def mapped(monkeypatch):
    """Every file is mapped and keeps its descriptor, as large ones do."""
    monkeypatch.setattr(opener, "_READ_LIMIT", 0)


def values_of(model, name):
    return model.graph.values[name].tensor.array()


def test_few_files_are_open_at_a_time(tmp_path, mapped):
    model = load(many(tmp_path, 300))
    before = descriptors()
    for _ in range(2):
        for i in range(300):
            np.testing.assert_array_equal(values_of(model, f"w{i}"), i)
    assert descriptors() - before <= 2 * external._MOST_OPEN
    model.files.close()
    assert descriptors() <= before


def test_what_is_being_read_stays(tmp_path, mapped, monkeypatch):
    monkeypatch.setattr(external, "_MOST_OPEN", 1)
    model = load(many(tmp_path, 4))
    first = values_of(model, "w0")
    origin = model.graph.values["w1"].tensor.origin()
    for i in range(4):
        values_of(model, f"w{i}")
    np.testing.assert_array_equal(first, 0)
    assert os.pread(origin[0].descriptor, 4, origin[1]) == np.float32(1).tobytes()


def test_more_files_than_a_process_may_open(tmp_path, mapped):
    """All the way to a result under `ulimit -n 256`: 1,000 files, each mapped."""
    nodes, weights = conv_bn("a", "x", "y")
    tensors = dict(weights)
    for i in range(1000):
        values = np.full(2048, i, np.float32)
        (tmp_path / f"{i}.data").write_bytes(values.tobytes())
        tensors[f"t{i}"] = outside(f"t{i}", f"{i}.data", values)
    model = net(nodes, {"x": [1, 4, 5, 5]}, ["y"], tensors)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        (tmp_path / "out").mkdir()
        result = normfold.optimize(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", config=Config(verify="off"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert result.changed
    written = load(tmp_path / "out" / "m.onnx")
    for i in (0, 500, 999):
        np.testing.assert_array_equal(values_of(written, f"t{i}"), i)


# --- files that change ---


def rewritten(path):
    data = bytearray(path.read_bytes())
    data[:4] = np.float32(9).tobytes()
    time.sleep(0.02)  # clocks of file systems tick a few hundred times a second
    path.write_bytes(data)


def exchanged(path):
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


CHANGES = {
    "rewritten": rewritten,
    "exchanged": exchanged,
    "shortened": lambda path: os.truncate(path, 8),
    "longer": lambda path: os.truncate(path, 800),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("still_open", [True, False])
def test_data_that_change_are_noticed(tmp_path, monkeypatch, change, still_open):
    monkeypatch.setattr(external, "_MOST_OPEN", 5 if still_open else 1)
    model = load(many(tmp_path, 3))
    for i in range(3):
        values_of(model, f"w{i}")
    model.require_unchanged()
    CHANGES[change](tmp_path / "0.data")
    with pytest.raises(InputError) as caught:
        model.require_unchanged()
    assert caught.value.code == ("extdata.missing" if change == "gone" and not still_open else "extdata.changed")
    if not still_open:
        with pytest.raises(InputError):
            values_of(model, "w0")


@pytest.mark.parametrize("change", list(CHANGES))
@pytest.mark.parametrize("what", ["m.onnx", "0.data"])
def test_nothing_is_written_of_files_that_changed(tmp_path, monkeypatch, change, what):
    path = many(tmp_path, 1)
    (tmp_path / "out").mkdir()
    verified = pipeline.Rounds.verified

    def then_changed(self, *arguments):
        done = verified(self, *arguments)
        CHANGES[change](tmp_path / what)
        return done

    monkeypatch.setattr(pipeline.Rounds, "verified", then_changed)
    with pytest.raises(InputError) as caught:
        normfold.optimize(path, tmp_path / "out" / "m.onnx", config=Config(verify="off"))
    assert caught.value.code in ("input.changed", "extdata.changed")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_further_name_is_no_change(tmp_path):
    model = load(many(tmp_path, 1))
    values_of(model, "w0")
    os.link(tmp_path / "0.data", tmp_path / "further")
    os.link(tmp_path / "m.onnx", tmp_path / "further.onnx")
    model.require_unchanged()


def test_a_hard_link_is_said(tmp_path):
    path = many(tmp_path, 2)
    os.link(tmp_path / "1.data", tmp_path / "further")
    result = normfold.optimize(path, tmp_path / "o.onnx", config=Config(verify="off"))
    assert [warning for warning in result.report.warnings if "hard link" in warning] == [
        "the data file '1.data' is a hard link; onnx refuses to load such files"
    ]


def test_all_missing_files_are_named_at_once(tmp_path):
    path = many(tmp_path, 12)
    for number in range(1, 12):
        (tmp_path / f"{number}.data").unlink()
    with pytest.raises(InputError) as caught:
        normfold.optimize(path, tmp_path / "o.onnx", config=Config(verify="off"))
    assert caught.value.code == "extdata.missing"
    assert caught.value.where == str(tmp_path)
    assert "'1.data', '2.data'" in caught.value.message
    assert caught.value.message.endswith("and 3 more")
    assert not (tmp_path / "o.onnx").exists()


def test_a_plan_needs_no_data(tmp_path):
    path = many(tmp_path, 2)
    (tmp_path / "1.data").unlink()
    assert normfold.optimize(path, config=Config(), dry_run=True).report.status == "planned"


# --- checksums ---


def test_checksums(tmp_path):
    right = hashlib.sha1(np.zeros(SIZE, np.float32).tobytes()).hexdigest()
    for checksum, code in ((right, None), (right.upper(), None), ("0" * 40, "extdata.checksum")):
        model = load(many(tmp_path, 1, checksum=checksum))
        if code is None:
            np.testing.assert_array_equal(values_of(model, "w0"), 0)
        else:
            with pytest.raises(InputError) as caught:
                values_of(model, "w0")
            assert caught.value.code == code


def test_two_checksums_of_one_file(tmp_path):
    values = np.zeros(SIZE, np.float32)
    tensors = {f"w{i}": outside(f"w{i}", "d", values, checksum=str(i) * 40) for i in range(2)}
    with pytest.raises(InputError) as caught:
        load(net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"], tensors))
    assert caught.value.code == "extdata.record"


# --- races ---


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_that_flips_all_the_time_never_shows_what_is_outside(tmp_path, what):
    """Another thread exchanges the data, or their folder, for a link to a secret, as fast as it can."""
    inside, secret = tmp_path / "model", tmp_path / "secret"
    for folder, content in ((inside / "sub", b"weights"), (secret, b"secrets")):
        folder.mkdir(parents=True)
        (folder / "w").write_bytes(content)
    place = inside / "sub" / "w" if what == "file" else inside / "sub"
    link, kept = tmp_path / "link", tmp_path / "kept"
    stop = threading.Event()

    def flip():
        while not stop.is_set():
            link.symlink_to(secret / "w" if what == "file" else secret)
            place.rename(kept)
            link.rename(place)
            place.unlink()
            kept.rename(place)
            time.sleep(random.random() / 2000)

    thread = threading.Thread(target=flip)
    thread.start()
    seen, refused = 0, 0
    try:
        end = time.monotonic() + 1.5
        while time.monotonic() < end or (not (seen and refused) and time.monotonic() < end + 60):
            try:
                found = open_data(inside / "m.onnx", "sub/w", "t")
            except InputError:
                refused += 1
                continue
            assert bytes(found.view) == b"weights"
            seen += 1
    finally:
        stop.set()
        thread.join()
    assert seen
    assert refused
