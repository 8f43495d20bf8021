"""Inputs: what users give, what integers mean, which shapes are tried, which runtime is there."""

from importlib import metadata

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from normfold.errors import EnvironmentProblem, InputError, UsageError
from normfold.verification import VerifyOptions, load_user_inputs, parse_shapes, runtime_info
from normfold.verification.bound import lines
from normfold.verification.model_inputs import attempts
from normfold.verification.protos import TensorType
from normfold.verification.ranges import draw, meanings


def test_parse_shapes():
    assert parse_shapes(["x=1x3x224x224", "a:0=2,5", "s="]) == {"x": (1, 3, 224, 224), "a:0": (2, 5), "s": ()}
    for bad in ("x", "x=1x", "x=-1x3", "=1", "x=axb"):
        with pytest.raises(UsageError, match="is not a shape"):
            parse_shapes([bad])
    with pytest.raises(UsageError, match="two shapes"):
        parse_shapes(["x=1", "x=2"])


def test_load_user_inputs(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    np.save(tmp_path / "b.npy", np.arange(4))
    np.savez(tmp_path / "c.npz", x=np.ones(2), z=np.zeros(1))
    found = load_user_inputs([f"x={tmp_path / 'a.npy'}", f"y={tmp_path}", str(tmp_path / "c.npz")])
    assert {name: len(arrays) for name, arrays in found.items()} == {"x": 2, "y": 2, "z": 1}


def test_bad_user_inputs(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty").mkdir()
    for spec, kind, words in [
        (f"x={tmp_path / 'none.npy'}", InputError, "no such file"),
        (f"x={tmp_path / 'objects.npy'}", InputError, "refused"),
        (f"x={tmp_path / 'text.npy'}", InputError, "text.npy"),
        (str(tmp_path / "text.npz"), InputError, "text.npz"),
        (f"x={tmp_path / 'empty'}", InputError, "no .npy"),
        ("whatever", UsageError, "cannot read"),
        ("x=", UsageError, "empty"),
    ]:
        with pytest.raises(kind, match=words):
            load_user_inputs([spec])


def graph(nodes, names, weights):
    infos = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "S"]) for name in names]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    return helper.make_graph(nodes, "g", infos, [], tensors)


def test_meanings_follow_the_consumers():
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "ax"], ["u"]),
        helper.make_node("Gather", ["T", "u"], ["e"]),
        helper.make_node("Gather", ["P", "position_ids"], ["p"]),
        helper.make_node("Equal", ["kind", "seven"], ["k"]),
        helper.make_node("Expand", ["e", "size"], ["x"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "m"], ["i"]),
        helper.make_node("OneHot", ["cls", "depth", "onoff"], ["o"]),
    ]
    weights = {"T": np.ones((50, 4)), "P": np.ones((9, 4)), "ax": [0], "seven": 7, "one": np.float32(1), "depth": [12]}
    one = graph(nodes, ["ids", "position_ids", "kind", "size", "attention_mask", "cls", "free"], weights)
    types = {name: TensorType(1, np.shape(value)) for name, value in weights.items()}
    found = meanings(one, types)
    assert {name: (m.kind, m.low, m.high) for name, m in found.items()} == {
        "ids": ("index", 0, 50),
        "position_ids": ("position", 0, 9),
        "kind": ("compare", 5, 10),
        "size": ("shape", 1, 2),
        "attention_mask": ("mask", 0, 2),
        "cls": ("index", 0, 12),
    }
    rng = np.random.default_rng(0)
    for name, meaning in found.items():
        values = draw(rng, TensorProto.INT64, (20, 30), meaning)
        assert values.min() >= meaning.low, name
        assert values.max() < meaning.high, name
    assert draw(rng, TensorProto.BOOL, (20, 3), None).any(axis=-1).all()
    assert draw(rng, TensorProto.UINT8, (2000,), None).max() > 250


def tried(dims, **options):
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, one) for name, one in dims.items()]
    one = helper.make_model(helper.make_graph([], "g", info, []))
    return [[trial.shapes for trial in trials] for trials in attempts(one, VerifyOptions(**options))]


def test_shapes_share_symbols_and_vary():
    first = tried({"x": ["N", 3, "H", "W"], "z": ["N", "H"], "past": ["N", "p"], "m": ["N", "p + H"]})[0]
    assert [shapes["x"][0] for shapes in first] == [2, 1, 3]
    for shapes in first:
        assert shapes["z"] == (shapes["x"][0], shapes["x"][2])
        assert shapes["m"][1] == shapes["past"][1] + shapes["x"][2]
        assert shapes["x"][2] != shapes["x"][3]
    assert len({str(shapes) for shapes in first}) == 3


def test_static_shapes_are_tried_once_and_given_ones_bind_symbols():
    assert tried({"x": [1, 3]}, trials=2) == [[{"x": (1, 3)}] * 2]
    (shapes,) = tried({"x": ["N", 3], "z": ["N", 2]}, trials=1, shapes={"x": (5, 3)})[0]
    assert shapes == {"x": (5, 3), "z": (5, 2)}


def test_lines():
    small = lines(4, 2.0**-24)
    assert small.passing == small.failing == 16 * 2.0**-24
    large = lines(4096, 2.0**-24)
    assert large.passing == 128 * 2.0**-24
    assert large.failing == pytest.approx(8192 * 2.0**-24, rel=1e-3)
    for length in (2048, 4096):
        assert lines(length, 2.0**-11).failing is None


@pytest.mark.parametrize(
    ("installed", "code", "hint"),
    [
        ([], "runtime.missing", 'pip install "normfold[cpu]"'),
        (
            ["onnxruntime", "onnxruntime-gpu"],
            "runtime.conflict",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu==1.0",
        ),
    ],
)
def test_runtime_problems(monkeypatch, installed, code, hint):
    def version(name):
        if name in installed:
            return "1.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(EnvironmentProblem) as caught:
        runtime_info()
    assert (caught.value.code, caught.value.hint) == (code, hint)


def test_runtime_info():
    assert set(runtime_info()) == {"distribution", "version"}


def test_sizes_that_nobody_asked_for_end_where_the_memory_does():
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, "D", "H", "W"])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [info], [])
    model = helper.make_model(graph)
    tried = [trials[0].shapes["x"] for trials in attempts(model, VerifyOptions(memory_limit_bytes=1 << 26))]
    assert 1 <= len(tried) < 6
    with pytest.raises(UsageError, match="MiB are there"):
        list(attempts(model, VerifyOptions(memory_limit_bytes=1 << 10)))
