"""The report is one value: it survives JSON, counts what is in the files, and carries no number that JSON has no word for."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import pytest

import models
import normfold
from normfold import Config
from normfold.report import schema
from normfold.report.schema import Report

NAMES = sorted(models.TORCH_FREE)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("name", NAMES)
def test_it_survives_json(name: str) -> None:
    report = normfold.optimize(models.build(name)).report
    text = report.model_dump_json()
    assert Report.model_validate_json(text) == report
    assert all(math.isfinite(number) for number in numbers(json.loads(text)))
    assert "NaN" not in text
    assert "Infinity" not in text


def operators(model: onnx.ModelProto) -> Counter[str]:
    found: Counter[str] = Counter()
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        for node in graph.node:
            found[node.op_type] += 1
            pending += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            pending += [part for attribute in node.attribute for part in attribute.graphs]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_counts_what_is_in_the_files(tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    source.write_bytes(models.build(name).SerializeToString())
    report = normfold.optimize(source, out, config=Config(verify="off")).report
    for side, path in (("before", source), ("after", out)):
        counted = {op.op_type: getattr(op, side) for op in report.ops if getattr(op, side)}
        assert counted == dict(operators(onnx.load(str(path))))
    assert report.bytes is not None
    assert (report.bytes.before, report.bytes.after) == (source.stat().st_size, out.stat().st_size)


@pytest.mark.parametrize("name", NAMES)
def test_every_norm_has_one_decision(name: str) -> None:
    model = models.build(name)
    report = normfold.optimize(model, dry_run=True).report
    sites = [decision.site for decision in report.decisions]
    assert len(sites) == len(set(sites))
    norms = Counter(decision.op_type for decision in report.decisions)
    flat = onnx.inliner.inline_local_functions(model)  # a norm in a function has one for each call that is inlined
    assert norms["BatchNormalization"] == operators(flat)["BatchNormalization"]
    for decision in report.decisions:
        assert (decision.outcome == "applied") == ("." not in decision.code)
        assert decision.message
        assert "\n" not in decision.message


def test_it_refers_to_no_time_and_no_machine(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(models.build("caffe_scale").SerializeToString())
    first, second = (normfold.optimize(source, tmp_path / "out.onnx").report for _ in range(2))
    assert first == second


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        Report(version="1", status="error", colour="red")  # type: ignore[call-arg]


def test_every_document_has_a_version_and_room_for_an_error() -> None:
    for kind in (schema.Report, schema.VerifyReport, schema.InspectReport, schema.ExplainReport, schema.TargetsReport):
        fields = kind.model_fields
        assert {"schema_version", "tool", "version", "command", "error"} <= set(fields)
        assert fields["schema_version"].default == schema.SCHEMA_VERSION
