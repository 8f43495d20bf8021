"""Data as users have it, and what is said when it does not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from normfold.errors import EnvironmentProblem, NormfoldError
from normfold.model.load import load
from normfold.statistics.collect import DataSource
from normfold.statistics.data import DataOptions, open_data, parse_numbers, parse_size
from tests.model.build import net, node

X = np.random.default_rng(0).normal(size=(10, 3, 4, 4)).astype(np.float32)


def model(**inputs: list[int | str]) -> ModelProto:
    inputs = inputs or {"x": ["N", 3, 4, 4]}
    return net([node("Identity", [name], [f"{name}.y"]) for name in inputs], inputs, [f"{n}.y" for n in inputs])


ONE, TWO = model(), model(x=["N", 3, 4, 4], mask=["N", 4])


def opened(data: object, proto: ModelProto = ONE, **options: object) -> DataSource:
    return open_data(data, load(proto), DataOptions(**options))


def read(source: DataSource, name: str = "x") -> np.ndarray:
    batches = list(source.batches())
    assert [batch.index for batch in batches] == list(range(len(batches)))
    assert all(batch.samples == source.batch_size for batch in batches[:-1])
    return np.concatenate([batch.feeds[name] for batch in batches])


def failure(data: object, proto: ModelProto = ONE, **options: object) -> NormfoldError:
    with pytest.raises(NormfoldError) as error:
        read(opened(data, proto, **options))
    assert "\n" not in str(error.value)
    return error.value


def test_an_archive(tmp_path: Path) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", x=X, labels=np.arange(10))
        source = opened(tmp_path / "x.npz", batch=4)
        np.testing.assert_array_equal(read(source), X)
        np.testing.assert_array_equal(read(source), X)  # it can be read again
        assert (source.samples, source.batch_size, source.grouped) == (10, 4, False)
    np.savez(tmp_path / "any.npz", whatever=X)
    np.testing.assert_array_equal(read(opened(str(tmp_path / "any.npz"))), X)


def test_arrays_that_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", np.ones((10, 4)))
    source = opened([f"x={tmp_path}/a.npy", f"mask={tmp_path}/b.npy"], TWO)
    np.testing.assert_array_equal(read(source), X)
    assert read(source, "mask").dtype == np.float32
    np.testing.assert_array_equal(read(opened(tmp_path / "a.npy")), X)
    np.testing.assert_array_equal(read(opened({"x": X})), X)


def test_a_folder_of_samples_or_of_batches(tmp_path: Path) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", X[i])
    np.save(tmp_path / "rest.npy", X[4:])
    np.testing.assert_array_equal(read(opened(tmp_path, batch=3)), X)
    archives = tmp_path / "archives"
    archives.mkdir()
    for i in range(5):
        np.savez(archives / f"{i}.npz", x=X[2 * i : 2 * i + 2], mask=np.ones((2, 4)), who=np.array([f"p{i}"] * 2))
    source = opened(archives, TWO, batch=4, group_key="who")
    np.testing.assert_array_equal(read(source), X)
    assert next(batch.groups for batch in source.batches()) == ("p0", "p0", "p1", "p1")
    assert next(batch.groups for batch in opened(archives, TWO, group_key="file").batches())[2] == "1.npz"


def test_a_seed_shuffles_and_a_limit_ends() -> None:
    first, again = read(opened({"x": X}, seed=1)), read(opened({"x": X}, seed=1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, X) and sorted(first[:, 0, 0, 0]) == sorted(X[:, 0, 0, 0])
    np.testing.assert_array_equal(read(opened({"x": X}, limit=7, batch=4)), X[:7])
    np.testing.assert_array_equal(read(opened({"x": X}, limit=3, seed=1)), first[:3])


def test_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "my_data_of_test.py"
    module.write_text(
        "import numpy as np\n"
        "def arrays():\n    for n in (3, 0, 5, 2):\n        yield np.ones((n, 3, 4, 4), np.float32) * n\n"
        "def mappings():\n    yield {'x': np.zeros((4, 3, 4, 4)), 'who': ['a', 'a', 'b', 'b']}\n"
        "def broken():\n    yield np.zeros((4, 3, 4, 4))\n    raise RuntimeError('disk on\\nfire')\n"
        "def nothing():\n    return []\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    found = read(opened("my_data_of_test:arrays", batch=4))
    np.testing.assert_array_equal(found[:, 0, 0, 0], [3] * 3 + [5] * 5 + [2] * 2)
    assert len(read(opened("my_data_of_test:arrays", batch=4, limit=6))) == 6
    groups = [batch.groups for batch in opened("my_data_of_test:mappings", batch=3, group_key="who").batches()]
    assert groups == [("a", "a", "b"), ("b",)]
    assert "disk on fire" in str(failure("my_data_of_test:broken"))
    assert failure("my_data_of_test:nothing").code == "data.empty"
    assert failure("my_data_of_test:number").code == "data.function"
    assert failure("no_such_module_at_all:f").code == "data.function"
    assert failure("my_data_of_test:arrays", seed=1).code == "usage.data"
    assert str(tmp_path) not in sys.path


def test_the_batch_that_a_model_fixes() -> None:
    fixed = model(x=[4, 3, 4, 4])
    source = opened({"x": X}, fixed)
    assert source.batch_size == 4 and len(read(source)) == 8  # the last two do not make a batch
    assert failure({"x": X}, fixed, batch=2).code == "usage.data"
    assert failure({"x": X[:3]}, fixed).code == "data.empty"


def test_bytes_go_into_floats_and_floats_not_into_bytes() -> None:
    values = read(opened({"x": np.full((2, 3, 4, 4), 255, np.uint8)}))
    assert values.dtype == np.float32 and values.max() == 255
    info = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 3])
    integers = net([node("Identity", ["x"], ["y"])], [info], ["y"])
    assert read(opened({"x": np.ones((2, 3), np.uint8)}, integers)).dtype == np.int64
    error = failure({"x": np.ones((2, 3))}, integers)
    assert error.code == "data.dtype" and "float64" in error.message and "int64" in error.message
    assert failure({"x": np.ones((2, 3, 4, 4), complex)}).code == "data.dtype"


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ({"x": np.ones((2, 4, 4, 3), np.float32)}, "data.shape", "(0, 3, 1, 2)"),
        ({"x": np.ones((3, 4, 4), np.float32)}, "data.shape", "one sample"),
        ({"x": np.ones((2, 3, 5, 4), np.float32)}, "data.shape", "[N, 3, 5, 4]"),
        ({"x": np.float32(3)}, "data.shape", "single number"),
        ({"x": X[:0]}, "data.empty", "no samples"),
    ],
)
def test_what_does_not_fit(data: object, code: str, words: str) -> None:
    error = failure(data)
    assert error.code == code and words in str(error)


def test_integers_do_not_wrap_around() -> None:
    body = [node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    model = load(net(body, [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 2])], ["y"]))
    fine = open_data({"x": np.array([[0, 255]])}, model)
    assert next(iter(fine.batches())).feeds["x"].dtype == np.uint8
    with pytest.raises(NormfoldError, match="0 to 255; the data holds -1 to 256") as caught:
        list(open_data({"x": np.array([[-1, 3], [4, 256]])}, model).batches())
    assert caught.value.code == "data.range"


def test_a_sample_that_is_not_finite_is_named() -> None:
    x = X.copy()
    x[7, 1, 2, 2] = np.nan
    error = failure({"x": x}, batch=4)
    assert error.code == "data.non_finite" and "sample 7" in error.message
    large = np.full((2, 3, 4, 4), 1e39)  # infinite as float32
    assert failure({"x": large}, batch=4).code == "data.non_finite"


def test_inputs_that_are_missing_or_differ(tmp_path: Path) -> None:
    error = failure({"x": X, "z": X}, TWO)
    assert error.code == "data.inputs" and "'mask'" in error.message and "x, z" in error.hint
    assert "number of samples" in failure({"x": X, "mask": np.ones((3, 4))}, TWO).message
    assert failure({"x": X}, group_key="who").code == "data.group_key"
    assert failure({"x": X, "who": np.ones((10, 2))}, group_key="who").code == "data.group_key"
    assert failure([f"x={tmp_path}/none.npy", f"mask={tmp_path}/none.npy"], TWO).code == "data.missing"
    assert failure([str(tmp_path), "mask"], TWO).code == "usage.data"


def test_files_that_are_no_data(tmp_path: Path) -> None:
    assert failure(tmp_path / "none.npz").code == "data.missing"
    assert failure("none").code == "data.missing"
    assert failure(tmp_path).code == "data.missing"
    for name in ("a.npz", "a.npy"):
        (tmp_path / name).write_bytes(b"hello")
        assert failure(tmp_path / name).code == "data.format"
    np.save(tmp_path / "objects.npy", np.array([{}, 3], dtype=object), allow_pickle=True)
    assert failure(tmp_path / "objects.npy").code == "data.objects"
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 3], dtype=object))
    assert failure(tmp_path / "objects.npz").code == "data.objects"
    (tmp_path / "notes.txt").write_text("hello")
    assert failure(tmp_path / "notes.txt").code == "data.format"
    np.savez(tmp_path / "x.npz", x=X)
    assert failure(tmp_path / "x.npz", mean=(0.5,)).code == "usage.data"


def test_options() -> None:
    assert parse_numbers("0.5, 1,2e-1", "--mean") == (0.5, 1.0, 0.2)
    assert parse_size("224") == (224, 224) and parse_size("480x640") == (480, 640)
    for wrong in ("a", "1x", "0", "1x2x3", "-3"):
        with pytest.raises(NormfoldError, match="is no size"):
            parse_size(wrong)
    with pytest.raises(NormfoldError, match="no list of numbers"):
        parse_numbers("0.5;2", "--mean")
    for wrong in ({"batch": 0}, {"limit": -1}, {"seed": -1}, {"std": (1.0, 0.0)}):
        with pytest.raises(NormfoldError):
            DataOptions(**wrong)


def pictures(folder: Path) -> list[np.ndarray]:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    made = []
    for i, name in enumerate(("cat/0.png", "cat/1.PNG", "dog/2.png")):
        pixels = rng.integers(0, 256, (4, 6, 3), np.uint8)
        (folder / name).parent.mkdir(exist_ok=True)
        image.fromarray(pixels[..., 0] if i == 1 else pixels).save(folder / name)
        made.append(np.repeat(pixels[..., :1], 3, axis=2) if i == 1 else pixels)
    return made


def test_images(tmp_path: Path) -> None:
    pixels = np.stack(pictures(tmp_path)).astype(np.float64)
    expected = ((pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).astype(np.float32)
    options = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "group_key": "folder"}
    source = opened(tmp_path, model(x=["N", 3, 4, 6]), **options)
    np.testing.assert_allclose(read(source), expected.transpose(0, 3, 1, 2), rtol=1e-6, atol=1e-6)
    assert next(source.batches()).groups == ("cat", "cat", "dog")
    assert next(source.batches()).ids == ("cat/0.png", "cat/1.PNG", "dog/2.png")
    last = read(opened(tmp_path, model(x=["N", "H", "W", 3]), size=(4, 6)))
    np.testing.assert_allclose(last, pixels / 255, rtol=1e-6)
    assert read(opened(tmp_path, model(x=["N", 3, 2, 2]))).shape == (3, 3, 2, 2)
    info = helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 4, 6, 3])
    raw = read(opened(tmp_path, net([node("Identity", ["x"], ["y"])], [info], ["y"])))
    np.testing.assert_array_equal(raw, pixels)


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    pictures(tmp_path)
    assert "--size" in failure(tmp_path, model(x=["N", 3, "H", "W"])).hint
    assert failure(tmp_path, model(x=["N", 3, 4, 6]), size=(5, 5)).code == "usage.data"
    assert failure(tmp_path, model(x=["N", 7, 4, 6])).code == "usage.data"
    assert failure(tmp_path, model(x=["N", 7])).code == "usage.data"
    assert failure(tmp_path, TWO).code == "usage.data"
    assert failure(tmp_path, mean=(0.5, 0.5)).code == "usage.data"
    assert failure(tmp_path, group_key="patient").code == "usage.data"
    (tmp_path / "cat/0.png").write_bytes(b"no image")
    assert failure(tmp_path).code == "data.format"


def test_images_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(EnvironmentProblem, match=r"normfold\[images\]"):
        opened(tmp_path)
