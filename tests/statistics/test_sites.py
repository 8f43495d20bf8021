"""The norms of a model: where they stand, and what is stored about them."""

from __future__ import annotations

import numpy as np
from onnx import helper
from onnx.parser import parse_model

from normfold.statistics.sites import Mode, StatSite
from normfold.statistics.subject import open_subject
from tests.statistics.build import found, healthy, trained
from tests.support import batch_norm, build


def test_what_is_stored() -> None:
    values = trained()
    subject = open_subject(healthy())
    assert [site.label for site in subject.sites] == [f"bn{i}" for i in range(6)]
    site = subject.sites[2]
    for name, stored in (("mean", "m2"), ("var", "v2"), ("gamma", "g2"), ("beta", "b2")):
        got = getattr(site, name)
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, values[stored].astype(np.float64))
    assert (site.channels, site.rank, site.mode, site.opset, site.has_statistics) == (16, 4, Mode.INFERENCE, 17, True)
    assert site.epsilon == float(np.float32(1e-5)) and site.momentum is None
    assert site.x.name == "c2" and site.y is not None and site.y.name == "n2"


def test_order_is_that_of_execution_and_branches_are_seen() -> None:
    init = batch_norm(4, sign=False)
    model = build("y = If(c)\nz = LayerNormalization(x, g)", "bool c, float[N,4] x", "float[N,4] y, float[N,4] z", init)
    branches = []
    for name in ("then", "else"):
        nodes = [helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], [f"{name}_y"], f"bn_{name}")]
        branches.append(helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", 1, ["N", 4])]))
    node = next(node for node in model.graph.node if node.op_type == "If")
    node.attribute.extend(
        [helper.make_attribute(f"{n}_branch", g) for n, g in zip(("then", "else"), branches, strict=True)]
    )
    subject = open_subject(model)
    assert [norm.label for norm in subject.norms] == ["bn_then", "bn_else", "z"]
    assert [norm.position for norm in subject.norms] == [0, 1, 2]
    assert all(isinstance(norm, StatSite) and norm.has_statistics for norm in subject.norms[:2])


FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N,2] x) => (float[N,2] y)
<float[2] g = {1, 2}, float[2] b = {0, 1}, float[2] m = {0, 0}, float[2] v = {1, 1}>
{ h = local.Norm(x, g, b, m, v)  y = local.Norm(h, g, b, b, v) }
<domain: "local", opset_import: ["": 17]>
Norm (x, g, b, m, v) => (y) { y = BatchNormalization(x, g, b, m, v) }
"""


def test_a_norm_in_a_function_has_the_weights_of_its_call() -> None:
    subject = open_subject(parse_model(FUNCTION))
    assert len(subject.sites) == 2 and all(site.has_statistics for site in subject.sites)
    assert len({site.key for site in subject.sites}) == 2
    findings = found(parse_model(FUNCTION), "S01")
    assert len(findings) == 1 and findings[0].severity == "error"


def test_what_cannot_be_read_says_why() -> None:
    model = build(
        "y = BatchNormalization(x, g, b, m, v)",
        "float[N,4] x, float[4] m",
        "float[N,4] y",
        {k: v for k, v in batch_norm(4).items() if k != "m"},
    )
    (site,) = open_subject(model).sites
    assert not site.has_statistics and site.mean is None and "mean" in site.unreadable
    assert site.channels == 4


def test_statistics_of_another_shape_are_no_statistics() -> None:
    init = batch_norm(4) | {"m": np.ones((4, 1), np.float32)}
    (site,) = open_subject(build("y = BatchNormalization(x, g, b, m, v)", "float[N,4] x", "float[N,4] y", init)).sites
    assert "one value per channel" in site.unreadable["mean"]
