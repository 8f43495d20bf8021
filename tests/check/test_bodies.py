"""Probes in the bodies of If, Loop and Scan: the moments that come out are those of numpy, whatever surrounds the site."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from normfold.statistics.collect import NOT_REACHED
from normfold.statistics.moments import Estimate
from normfold.statistics.probes.collector import collect
from normfold.statistics.probes.forms import BATCH, STORED, Form, Statistics
from normfold.statistics.subject import open_subject
from tests.check.bodies import (
    EPSILON,
    WEIGHTS,
    C,
    X,
    body,
    branching,
    looping,
    moments,
    norm,
    normalised,
    scanning,
    states,
)
from tests.check.sources import batches
from tests.model.build import net, node, run


def estimates(model: ModelProto, x: np.ndarray = X, size: int = 4, form: Form = STORED) -> dict[str, Estimate]:
    """By label; and the outputs of the model stay what they are."""
    subject = open_subject(model)
    found = collect(subject, batches(x, size), form)
    assert not found.skipped
    if form is STORED:
        expected = np.concatenate([run(model, {"x": x[i : i + size]})[0] for i in range(0, len(x), size)])
        np.testing.assert_allclose(found.outputs["y"], expected, rtol=1e-4, atol=1e-5)
    labels = {site.key: site.label for site in subject.sites}
    return {labels[key]: state.estimate() for key, state in found.moments.items()}


def reasons(model: ModelProto, x: np.ndarray = X, size: int = 4) -> dict[str, str]:
    subject = open_subject(model)
    found = collect(subject, batches(x, size))
    return {site.label: found.skipped[site.key] for site in subject.sites if site.key in found.skipped}


def assert_moments(estimate: Estimate, values: Sequence[np.ndarray]) -> None:
    mean, var = moments(values)
    np.testing.assert_allclose(estimate.mean, mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(estimate.var, var, rtol=2e-5)
    assert (estimate.count == sum(v[:, 0].size for v in values)).all()


# --- If ---


@pytest.mark.parametrize("opset", [9, 11, 13, 16, 17, 21])
def test_each_branch_counts_the_batches_that_went_through_it(opset: int) -> None:
    found = estimates(branching(opset=opset))
    assert_moments(found["then"], [2 * X[:8], 2 * X[12:]])
    assert_moments(found["else"], [-X[8:12]])
    assert (found["then"].samples, found["else"].samples) == (12, 4)
    rows = (2 * X)[[*range(8), *range(12, 16)]].mean(2)
    np.testing.assert_allclose(found["then"].se_mean, rows.std(0, ddof=1) / np.sqrt(12), rtol=1e-4)


def test_a_branch_that_no_batch_takes_was_not_reached() -> None:
    assert reasons(branching(), X + 10) == {"else": NOT_REACHED}
    assert reasons(branching(), X - 10) == {"then": NOT_REACHED}


def test_statistics_of_the_batch_in_a_branch() -> None:
    """Behind the branch stands what training would have made."""
    model = branching()
    model.graph.node[-1].output[0] = "inner"
    model.graph.node.append(norm("inner", "y", "behind"))
    found = estimates(model, form=BATCH)
    shape = (1, C, 1)
    gamma, beta = WEIGHTS["gamma"].reshape(shape), WEIGHTS["beta"].reshape(shape)

    def trained(part: np.ndarray) -> np.ndarray:
        centre, spread = part.mean((0, 2), keepdims=True), part.var((0, 2), keepdims=True)
        return gamma * (part - centre) / np.sqrt(spread + EPSILON) + beta

    inside = [trained(2 * X[0:4]), trained(2 * X[4:8]), trained(-X[8:12]), trained(2 * X[12:])]
    mean, var = moments(inside)
    np.testing.assert_allclose(found["behind"].mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["behind"].var, var, rtol=1e-4)


def test_other_statistics_in_a_branch() -> None:
    model = branching()
    subject = open_subject(model)
    site = next(site for site in subject.sites if site.label == "then")
    given = Statistics(np.full(C, 0.25), np.full(C, 2.0))
    found = collect(subject, batches(X, 4), Form(statistics={site.key: given}))
    gamma, beta = (WEIGHTS[name].reshape(1, C, 1) for name in ("gamma", "beta"))
    expected = gamma * (2 * X[:4] - 0.25) / np.sqrt(2 + EPSILON) + beta
    np.testing.assert_allclose(found.outputs["y"][:4], expected, rtol=1e-4, atol=1e-5)


def test_a_branch_without_operators_beside_one_with_a_norm() -> None:
    """What it returns is an initializer of its own: there is no operator beside which rows could be made."""
    empty = body([], ["nothing"], weights={"nothing": np.zeros((4, C, 5), np.float32)})
    assert_moments(estimates(branching(other=empty))["then"], [2 * X[:8], 2 * X[12:]])


@pytest.mark.parametrize("space", [(), (5,), (3, 4)])
@pytest.mark.parametrize("elem", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_every_rank_and_type_in_a_branch(space: tuple[int, ...], elem: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    x = np.random.default_rng(1).normal(0.5, 2, (12, C, *space)).astype(dtype)
    weights = {name: array.astype(dtype) for name, array in WEIGHTS.items()}
    ends = [helper.make_tensor_value_info(name, elem, None) for name in ("t", "e")]
    then = helper.make_graph([node("Relu", ["x"], ["r"]), norm("r", "t", "then")], "then", [], ends[:1])
    other = helper.make_graph([node("Identity", ["x"], ["e"])], "else", [], ends[1:])
    nodes = [node("If", ["flag"], ["y"], then_branch=then, else_branch=other)]
    for declared in ([None, C, *(None for _ in space)], None):
        model = net(
            nodes, [helper.make_tensor_value_info("x", elem, declared)], ["y"], {**weights, "flag": np.array(True)}, elem=elem
        )  # fmt: skip
        assert_moments(estimates(model, x)["then"], [np.maximum(x, 0)])


def test_a_convolution_in_a_branch_takes_the_shift() -> None:
    weight = np.random.default_rng(2).normal(size=(C, C, 1)).astype(np.float32)
    then = body([node("Conv", ["x", "weight"], ["c"]), norm("c", "t", "then")], ["t"], weights={"weight": weight})
    found = estimates(branching(then=then))
    inside = [np.einsum("oi,nil->nol", weight[:, :, 0], part) for part in (X[:8], X[12:])]
    assert_moments(found["then"], inside)


# --- Loop ---


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_a_loop_adds_up_its_iterations(opset: int) -> None:
    found = estimates(looping(opset=opset))["inside"]
    assert_moments(found, states(X))
    assert found.samples == 16
    per_sample = np.mean([state.mean(2) for state in states(X)], axis=0)  # the sample stays the unit of independence
    np.testing.assert_allclose(found.se_mean, per_sample.std(0, ddof=1) / 4, rtol=1e-4)


def test_a_loop_without_iterations_was_not_reached() -> None:
    assert reasons(looping(0)) == {"inside": NOT_REACHED}


def test_iterations_are_no_batches_of_training() -> None:
    """With the statistics of the batch wanted everywhere, a norm in a loop keeps the stored ones."""
    assert_moments(estimates(looping(), form=BATCH)["inside"], states(X))


def test_a_branch_in_a_loop_counts_the_iterations_that_take_it() -> None:
    """Iterations whose state has a mean above 1; the others leave no rows, and batches differ."""
    then = body([norm("h", "t", "rare")], ["t"])
    other = body([norm("h", "e", "usual")], ["e"])
    inner = [
        node("ReduceMean", ["h"], ["middle"], keepdims=0),
        node("Greater", ["middle", "one"], ["flag"]),
        node("If", ["flag"], ["n"], then_branch=then, else_branch=other),
    ]
    model = looping(inner=inner)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    high, low = [], []
    for start in range(0, 16, 4):
        for state in states(X[start : start + 4]):
            (high if state.mean() > 1 else low).append(state)
    assert len(high) > 1 and len(low) > 1
    found = estimates(model)
    assert_moments(found["rare"], high)
    assert_moments(found["usual"], low)


def test_a_loop_in_a_branch() -> None:
    inner = looping()
    loop = [n for n in inner.graph.node if n.op_type != "Add"]
    then = body([*loop, node("Add", ["last", "sum"], ["t"])], ["t"])
    other = body([node("Identity", ["x"], ["e"])], ["e"])
    model = branching(then=then, other=other)
    model.graph.initializer.extend(t for t in inner.graph.initializer if t.name in ("half", "count", "front"))
    parts = [state for start in (0, 4, 12) for state in states(X[start : start + 4])]
    assert_moments(estimates(model)["inside"], parts)


def test_a_loop_over_the_samples() -> None:
    """Every iteration sees one sample: the rows together are the batch."""
    step = body(
        [
            node("Gather", ["x", "i"], ["sample"], axis=0),
            node("Unsqueeze", ["sample", "front"], ["row"]),
            norm("row", "n", "inside"),
            node("Identity", ["again"], ["go"]),
        ],
        ["go", "n"],
        ["i", "again"],
    )
    nodes = [
        node("Shape", ["x"], ["dims"]),
        node("Gather", ["dims", "first"], ["count"], axis=0),
        node("Loop", ["count", ""], ["all"], body=step),
        node("Squeeze", ["all", "second"], ["y"]),
    ]
    weights = {**WEIGHTS, "front": np.array([0]), "first": np.array(0), "second": np.array([1])}
    found = estimates(net(nodes, {"x": ["N", C, 5]}, ["y"], weights))["inside"]
    assert_moments(found, [X])
    assert found.samples == 16
    np.testing.assert_allclose(found.se_mean, X.mean(2).std(0, ddof=1) / 4, rtol=1e-4)


# --- Scan ---


@pytest.mark.parametrize("opset", [9, 11, 16, 17])
def test_a_scan_stacks_its_steps(opset: int) -> None:
    model = scanning(opset=opset, axis=2, scan_output_axes=[1], scan_output_directions=[1])
    seen, state = [], np.zeros((16, C))
    for t in range(5):
        seen.append(X[:, :, t] + state)
        state = normalised(seen[-1])
    found = estimates(model)["inside"]
    assert_moments(found, seen)
    assert found.samples == 16


def test_a_scan_without_attributes_of_its_outputs() -> None:
    frames = np.moveaxis(X, 2, 1)  # [N, T, C]
    seen, state = [], np.zeros((16, C))
    for t in range(5):
        seen.append(frames[:, t] + state)
        state = normalised(seen[-1])
    subject = open_subject(scanning(axis=1))
    (found,) = collect(subject, batches(frames, 4)).moments.values()
    assert_moments(found.estimate(), seen)


def test_a_scan_in_a_scan_and_in_a_loop() -> None:
    inner = body(
        [node("Add", ["v", "p"], ["q"]), norm("q", "r", "inside"), node("Identity", ["r"], ["r2"])], ["r", "r2"],
        ["p", "v"],
    )  # fmt: skip
    scan = node("Scan", ["s", "x"], ["new", "unused"], body=inner, num_scan_inputs=1, scan_input_axes=[2])
    seen: list[np.ndarray] = []

    def run_inner(state: np.ndarray) -> np.ndarray:
        for t in range(5):
            seen.append(X[:, :, t] + state)
            state = normalised(seen[-1])
        return state

    model = scanning(axis=2, inner=[scan], scan_output_axes=[1])
    state = np.zeros((16, C))
    for _ in range(5):
        state = run_inner(state)
    subject = open_subject(model)
    (found,) = collect(subject, batches(X, 4)).moments.values()
    assert_moments(found.estimate(), seen)

    step = body(
        [scan, node("Identity", ["again"], ["go"])], ["go", "new"],
        ["i", "again", "s"],
    )  # fmt: skip
    nodes = [
        node("ReduceMean", ["x"], ["middle"], axes=[2], keepdims=0),
        node("Sub", ["middle", "middle"], ["start"]),
        node("Loop", ["count", "", "start"], ["y"], body=step),
    ]
    model = net(nodes, {"x": ["N", C, None]}, ["y"], {**WEIGHTS, "count": np.array(2)})
    seen.clear()
    state = np.zeros((16, C))
    for _ in range(2):
        state = run_inner(state)
    assert_moments(estimates(model)["inside"], seen)


def test_what_cannot_leave_a_scan_is_said() -> None:
    """Rows that may be missing in some iterations cannot be stacked; the model runs all the same."""
    then = body([norm("sum", "t", "inside")], ["t"])
    other = body([node("Identity", ["sum"], ["e"])], ["e"])
    inner = [
        node("Add", ["x_t", "s"], ["sum"]),
        node("ReduceMean", ["sum"], ["middle"], keepdims=0),
        node("Cast", ["middle"], ["flag"], to=TensorProto.BOOL),
        node("If", ["flag"], ["new"], then_branch=then, else_branch=other),
    ]
    (reason,) = reasons(scanning(axis=2, inner=inner)).values()
    assert "an If inside of a Scan" in reason and "export the body" in reason


def test_rows_that_are_no_samples_are_said() -> None:
    """Two rows in every iteration, for batches of four."""
    step = body(
        [
            node("Slice", ["x", "from", "to"], ["part"]),
            norm("part", "n", "inside"),
            node("Identity", ["again"], ["go"]),
        ],
        ["go", "n"],
        ["i", "again"],
    )
    nodes = [node("Loop", ["count", ""], ["y"], body=step)]
    weights = {**WEIGHTS, "from": np.array([0]), "to": np.array([2]), "count": np.array(3)}
    model = net(nodes, {"x": ["N", C, 5]}, ["y"], weights)
    assert reasons(model) == {"inside": "its input has 3 runs of 2 rows of 5 values for 4 samples"}
