"""Paths named by a user or a model: what is opened, and the code of everything that is not."""

from __future__ import annotations

import os
import socket

import pytest

from normfold.errors import InputError
from normfold.model import opener
from normfold.model.load import load
from normfold.model.opener import absolute, open_data, open_model
from normfold.model.trust import Links, Trust

from .build import net, node


def refused(code, path, act=open_model):
    with pytest.raises(InputError) as caught:
        act(path)
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing(tmp_path):
    refused("input.not_found", tmp_path / "no.onnx")
    (tmp_path / "file").write_text("x")
    refused("input.not_found", tmp_path / "file" / "below.onnx")


def test_directory_names_the_model_inside(tmp_path):
    assert "name the .onnx file" in refused("input.is_directory", tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    assert str(tmp_path / "model.onnx") in refused("input.is_directory", tmp_path)


@pytest.mark.timeout(10)
def test_no_regular_file_and_no_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refused("input.not_regular", tmp_path / "pipe")
    refused("input.not_regular", absolute("/dev/zero"))
    refused("input.not_regular", absolute("/dev/null"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        refused("input.unreadable", tmp_path / "socket")


def test_permission(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"x")

    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opener.os, "open", deny)
    refused("input.permission", tmp_path / "m.onnx")


@pytest.mark.parametrize("error", [24, 5, 36])  # EMFILE, EIO, ENAMETOOLONG
def test_other_failures_of_open(tmp_path, monkeypatch, error):
    def fail(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(opener.os, "open", fail)
    assert os.strerror(error) in refused("input.unreadable", tmp_path / "m.onnx")


def test_a_long_name(tmp_path):
    refused("input.unreadable", tmp_path / ("a" * 300))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (b"7z\xbc\xaf\x27\x1crest", "7z"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n  <!doctype html>", "HTML"),
        (b"\xef\xbb\xbf<html>", "HTML"),
        (b"<HTML><head>", "HTML"),
        (b"<!DocType HTML>", "HTML"),
        (b'{"error": "not found"}', "JSON"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x80\x04\x95", "pickle"),
        (b"\x1c\x00\x00\x00TFL3rest", "TFLite"),
        (b"\x1c\x00\x00\x00ORTMrest", ".ort"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"__metadata__"', "safetensors"),
    ],
)
def test_other_formats_are_named(tmp_path, content, words):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert words in refused("input.wrong_format", path)


def test_empty(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"")
    refused("input.empty", tmp_path / "m.onnx")


@pytest.mark.parametrize("content", [b"plain text, no model", b"\x00" * 100, b"\xff" * 100, b"\x08"])
def test_anything_else_is_malformed(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused("input.malformed", path, load)


@pytest.mark.parametrize("name", ["a b.onnx", "größe.onnx", "😀.onnx", "new\nline.onnx", ".hidden.onnx", "CON.onnx"])
def test_odd_names_open(tmp_path, name):
    model = net([node("Relu", ["x"], ["y"])], {"x": [1]}, ["y"])
    (tmp_path / name).write_bytes(model.SerializeToString())
    assert load(tmp_path / name).graph.nodes[0].op_type == "Relu"


def test_a_model_may_be_a_link(tmp_path):
    (tmp_path / "real.onnx").write_bytes(b"abc")
    (tmp_path / "m.onnx").symlink_to(tmp_path / "real.onnx")
    assert bytes(open_model(tmp_path / "m.onnx").view) == b"abc"


def test_large_files_are_mapped_and_can_be_released(tmp_path, monkeypatch):
    monkeypatch.setattr(opener, "_READ_LIMIT", 10)
    content = os.urandom(20000)
    (tmp_path / "m.onnx").write_bytes(content)
    opened = open_model(tmp_path / "m.onnx")
    opened.release(5000, 9000)
    opened.release(0, 20000)
    assert bytes(opened.view) == content
    opened.close()


def test_parts_of_a_mapped_file_know_where_they_lie(tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(bytes(range(200)))
    assert open_model(tmp_path / "m.onnx").offset_of(memoryview(b"abc")) is None  # read, not mapped
    monkeypatch.setattr(opener, "_READ_LIMIT", 10)
    found = open_model(tmp_path / "m.onnx")
    assert [found.offset_of(part) for part in (found.view, found.view[5:9], found.view[199:])] == [0, 5, 199]
    assert found.offset_of(found.view[3:3]) is None
    assert found.offset_of(memoryview(b"abc")) is None


def test_close_waits_for_arrays_that_still_look_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(opener, "_READ_LIMIT", 10)
    (tmp_path / "m.onnx").write_bytes(b"abcdefghijklmnop")
    opened = open_model(tmp_path / "m.onnx")
    part = opened.view[2:4]
    opened.close()
    assert bytes(part) == b"cd"


# --- external data ---


def opened(folder, location):
    return open_data(folder / "m.onnx", location, "w")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "m.onnx").write_bytes(b"model")
    (inside / "w.data").write_bytes(b"weights")
    (inside / "sub" / "w.data").write_bytes(b"deeper")
    return inside


@pytest.mark.parametrize("location", ["w.data", "sub/w.data", "./w.data", "sub//w.data"])
def test_data_inside_the_folder_opens(folder, location):
    assert bytes(opened(folder, location).view) in (b"weights", b"deeper")


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("../secret", "extdata.escape"),
        ("sub/../../secret", "extdata.escape"),
        ("sub/../w.data", "extdata.escape"),
        ("..", "extdata.escape"),
        ("/etc/passwd", "extdata.escape"),
        ("//host/share", "extdata.escape"),
        ("C:secret", "extdata.escape"),
        ("C:/secret", "extdata.escape"),
        ("\\\\host\\share", "extdata.location"),
        ("..\\secret", "extdata.location"),
        ("", "extdata.location"),
        ("w.data\0.png", "extdata.location"),
        ("a" * 5000, "extdata.location"),
        ("a" * 1_000_000, "extdata.location"),
        ("a" * 300, "input.unreadable"),
        ("/dev/stdin", "extdata.escape"),
        ("/proc/self/mem", "extdata.escape"),
        ("*/_ORT_MEM_ADDR_/*", "extdata.location"),
        ("none.data", "extdata.missing"),
        ("w.data/below", "extdata.missing"),
        ("sub", "input.is_directory"),
        (".", "input.is_directory"),
    ],
)
def test_locations_that_are_refused(folder, location, code):
    refused(code, location, lambda place: opened(folder, place))


def test_links_inside_the_folder(folder):
    (folder / "link").symlink_to("sub/w.data")
    assert bytes(opened(folder, "link").view) == b"deeper"


def test_links_that_lead_outside(folder):
    (folder / "link").symlink_to("../secret")
    refused("extdata.escape", "link", lambda place: opened(folder, place))
    (folder / "parent").symlink_to("..")
    refused("extdata.escape", "parent/secret", lambda place: opened(folder, place))


def test_a_loop_of_links(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(InputError):
        opened(folder, "a")


def test_the_layout_of_a_download_cache(tmp_path):
    """Model and data are links from a snapshot into one directory of blobs."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_bytes(b"model")
    (blobs / "2").write_bytes(b"weights")
    (snapshot / "m.onnx").symlink_to("../../blobs/1")
    (snapshot / "w.data").symlink_to("../../blobs/2")
    assert bytes(opened(snapshot, "w.data").view) == b"weights"
    (snapshot / "stray").symlink_to("../../other")
    (tmp_path / "other").write_bytes(b"other")
    refused("extdata.escape", "stray", lambda place: opened(snapshot, place))


@pytest.mark.timeout(10)
def linked(tmp_path, kind):
    """A model whose data `w` are reached in one of four ways."""
    inside, outside = tmp_path / "model", tmp_path / "outside"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    (inside / "m.onnx").write_bytes(b"model")
    for place in (inside / "sub", outside):
        (place / "w").write_bytes(b"weights")
    if kind == "plain":
        return inside, "sub/w"
    if kind == "inside":
        (inside / "link").symlink_to("sub/w")
        return inside, "link"
    if kind == "directory":
        (inside / "there").symlink_to("sub")
        return inside, "there/w"
    if kind == "outside":
        (inside / "link").symlink_to("../outside/w")
        return inside, "link"
    (outside / "m.onnx").write_bytes(b"model")  # a cache: model and data are links into one directory
    (inside / "m.onnx").unlink()
    (inside / "m.onnx").symlink_to("../outside/m.onnx")
    (inside / "w").symlink_to("../outside/w")
    return inside, "w"


@pytest.mark.parametrize(
    ("policy", "kind", "code"),
    [
        *((policy, "plain", None) for policy in Links),
        (Links.DENY, "inside", "extdata.link"),
        (Links.DENY, "directory", "extdata.link"),
        (Links.DENY, "cache", "extdata.link"),
        (Links.DENY, "outside", "extdata.link"),
        (Links.HF, "inside", None),
        (Links.HF, "directory", None),
        (Links.HF, "cache", None),
        (Links.HF, "outside", "extdata.escape"),
        *((Links.ALLOW, kind, None) for kind in ("inside", "directory", "cache", "outside")),
    ],
)
def test_the_policy_for_links(tmp_path, policy, kind, code):
    inside, location = linked(tmp_path, kind)
    read = lambda place: open_data(inside / "m.onnx", place, "t", Trust(policy))  # noqa: E731
    if code is None:
        assert bytes(read(location).view) == b"weights"
    else:
        refused(code, location, read)


@pytest.mark.parametrize("location", ["../outside/w", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "sub"])
@pytest.mark.parametrize("policy", list(Links))
def test_no_policy_for_links_makes_a_location_of_what_is_none(tmp_path, policy, location):
    inside, _ = linked(tmp_path, "plain")
    with pytest.raises(InputError):
        open_data(inside / "m.onnx", location, "t", Trust(policy))


def test_no_links_below_a_directory_that_is_reached_by_one(tmp_path):
    """Where the user says that the model is, is the user's business."""
    inside, location = linked(tmp_path, "plain")
    (tmp_path / "alias").symlink_to(inside)
    assert bytes(open_data(tmp_path / "alias" / "m.onnx", location, "t", Trust(Links.DENY)).view) == b"weights"


def test_a_link_to_a_pipe_does_not_hang(tmp_path):
    inside, _ = linked(tmp_path, "plain")
    os.mkfifo(tmp_path / "pipe")
    (inside / "link").symlink_to(tmp_path / "pipe")
    with pytest.raises(InputError) as caught:
        open_data(inside / "m.onnx", "link", "t", Trust(Links.ALLOW))
    assert caught.value.code == "input.not_regular"


def test_a_hard_link_of_strangers(tmp_path):
    inside, location = linked(tmp_path, "plain")
    os.link(inside / location, tmp_path / "further")
    assert bytes(open_data(inside / "m.onnx", location, "t").view) == b"weights"
    with pytest.raises(InputError) as caught:
        open_data(inside / "m.onnx", location, "t", Trust.of("allow", untrusted=True))
    assert caught.value.code == "extdata.link"


@pytest.mark.parametrize(
    ("links", "untrusted", "expected"),
    [(None, False, Links.HF), (None, True, Links.DENY), ("allow", True, Links.ALLOW), ("deny", False, Links.DENY)],
)
def test_strangers_get_no_links_unless_that_is_said(links, untrusted, expected):
    assert Trust.of(links, untrusted=untrusted) == Trust(expected, untrusted)


def test_data_that_is_no_file(folder):
    os.mkfifo(folder / "pipe")
    refused("input.not_regular", "pipe", lambda place: opened(folder, place))


def test_a_link_put_there_after_the_check_is_not_followed(folder, monkeypatch):
    """The race: the name is a file when it is checked and a link when it is opened."""
    real = opener._contained

    def swap(*arguments):
        path = real(*arguments)
        path.unlink()
        path.symlink_to("../secret")
        return path

    monkeypatch.setattr(opener, "_contained", swap)
    refused("extdata.escape", "w.data", lambda place: opened(folder, place))


def test_a_parent_swapped_after_the_check_is_noticed(folder, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "w.data").write_bytes(b"secret")
    real = opener._contained

    def swap(*arguments):
        path = real(*arguments)
        (folder / "sub").rename(folder / "gone")
        (folder / "sub").symlink_to("../outside")
        return path

    monkeypatch.setattr(opener, "_contained", swap)
    refused("extdata.escape", "sub/w.data", lambda place: opened(folder, place))
