"""How large a model may be: every bound refuses one beyond it in one line that says which, and takes one at it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from normfold.errors import InputError, UsageError
from normfold.model.caps import DEFAULT_CAPS, Caps
from normfold.model.load import Model, load
from normfold.model.source import Source
from normfold.model.trust import Trust
from normfold.model.wire import header


def chain(length: int, *, name: str = "n") -> ModelProto:
    """Relus one behind the other."""
    nodes = [helper.make_node("Relu", [f"{name}{i}"], [f"{name}{i + 1}"]) for i in range(length)]
    infos = [helper.make_tensor_value_info(f"{name}{i}", TensorProto.FLOAT, ["N"]) for i in (0, length)]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weights(*arrays: np.ndarray) -> ModelProto:
    """A node that adds all of them up."""
    tensors = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(arrays)]
    nodes = [helper.make_node("Sum", [tensor.name for tensor in tensors], ["y"])]
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [], [info], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def nested(depth: int) -> ModelProto:
    """An If in an If in an If."""
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [out])
    for _ in range(depth):
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)], "g", [], [out]
        )
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def doubling(levels: int) -> ModelProto:
    """Functions, each of which calls the next one twice."""
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    last = helper.make_node("Relu", ["a"], ["b"])
    functions = [helper.make_function("f", f"F{levels}", ["a"], ["b"], [last], opset)]
    for level in range(levels):
        body = [helper.make_node(f"F{level + 1}", [a], [b], domain="f") for a, b in ("am", "mb")]
        functions.append(helper.make_function("f", f"F{level}", ["a"], ["b"], body, opset))
    model = chain(1)
    model.graph.node[0].CopyFrom(helper.make_node("F0", ["n0"], ["n1"], domain="f"))
    model.opset_import.append(opset[1])
    model.functions.extend(functions)
    return model


def external(files: int) -> ModelProto:
    """A tensor in each of several files."""
    model = weights(*(np.ones(3, np.float32) for _ in range(files)))
    for i, tensor in enumerate(model.graph.initializer):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{i}.data")
    return model


def opened(model: ModelProto | bytes, folder: Path, caps: Caps) -> Model:
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return load(Source(path, hashed=False, trust=Trust(caps=caps)))


ROW = np.ones((3, 5), np.float32)
# The bound at which a model just loads, and the code of the refusal one below.
CASES = {
    "entries": (chain(4), 4 + 3 + 3, "resource.cap"),  # nodes; name, input, output; IR version, graph, opset
    "parts": (weights(ROW, ROW, ROW), 4, "resource.cap"),
    "elements": (weights(ROW), 15, "resource.cap"),
    "tensor_bytes": (weights(ROW), 60, "resource.cap"),
    "files": (external(3), 3, "resource.cap"),
    "name_length": (chain(1, name="n" * 40), 41, "graph.name"),
    "expanded_nodes": (doubling(3), 22, "function.size"),  # 8 Relus and 14 calls
    "subgraph_depth": (nested(5), 5, "proto.depth"),
}


def test_every_bound_has_a_case() -> None:
    assert CASES.keys() == set(Caps.__slots__)


@pytest.mark.parametrize("name", CASES)
def test_a_bound(tmp_path: Path, name: str) -> None:
    model, limit, code = CASES[name]
    option = name.replace("_", "-")
    opened(model, tmp_path, Caps.of([f"{option}={limit}"]))
    with pytest.raises(InputError) as caught:
        opened(model, tmp_path, Caps.of([f"{option}={limit - 1}"]))
    assert caught.value.code == code
    assert f"more than {limit - 1}" in str(caught.value)
    assert f"--cap {option}=N" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_large_node_is_not_parsed_before_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bytes for each of many inputs that are left out would take some fifty each in memory."""
    node = helper.make_node("Sum", ["n0"], ["n1"]).SerializeToString() + b"\x0a\x00" * 10_000
    graph = header(1, len(node)) + node
    data = b"\x08\x08" + header(7, len(graph)) + graph + header(8, 2) + b"\x10\x11"
    monkeypatch.setattr("normfold.model.outline.NodeProto.FromString", None)
    with pytest.raises(InputError, match="of one node are more than 500"):
        opened(data, tmp_path, Caps(parts=500))


def test_many_empty_entries_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    """A few MB of entries of two bytes, each of which is an object here."""
    graph = b"\x6a\x00" * (DEFAULT_CAPS.entries + 1)  # value_info
    data = b"\x08\x08" + header(7, len(graph)) + graph + header(8, 2) + b"\x10\x11"
    start = time.perf_counter()
    with pytest.raises(InputError, match="all together, are more than 2000000"):
        opened(data, tmp_path, DEFAULT_CAPS)
    assert time.perf_counter() - start < 30


def test_a_million_dimensions_are_not_multiplied(tmp_path: Path) -> None:
    """Their product has sixty million bits, and to compute it takes hours."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 62] * 1_000_000)
    model = weights(ROW)
    model.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(InputError) as caught:
        opened(model, tmp_path, DEFAULT_CAPS)
    assert caught.value.code == "tensor.dims"
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("entires=5", "did you mean entries?"),
        ("x=5", "there are entries, parts"),
        ("entries", "write entries=N"),
        ("entries=", "write entries=N"),
        ("entries=0", "write entries=N"),
        ("entries=-1", "write entries=N"),
        ("entries=٣", "write entries=N"),
        ("subgraph-depth=31", "from 1 to 30"),
    ],
)
def test_what_is_no_bound(spec: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Caps.of([spec])
    assert caught.value.code == "usage.cap"
    assert words in str(caught.value)


def test_the_last_one_counts_and_the_others_stay() -> None:
    assert Caps.of(["entries=5", "name-length=7", "entries=6"]) == Caps(entries=6, name_length=7)
    assert Caps.of([]) == DEFAULT_CAPS
