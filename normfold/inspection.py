"""What is in a model, and why a node was folded or not: `inspect` and `explain`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto

from normfold._version import __version__
from normfold.affine.recognise import BATCH_NORM
from normfold.config import Config
from normfold.errors import UsageError
from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Node
from normfold.model.inline import inline
from normfold.model.load import Model, find_nodes, node_count
from normfold.norm.sites import is_norm_operator, parameters
from normfold.pipeline import plan_only
from normfold.report.schema import InspectReport, NormReport
from normfold.surgery.calls import Planned
from normfold.surgery.norms import Surveyed, survey
from normfold.surgery.plan import Decision, Outcome
from normfold.surgery.signatures import Signatures
from normfold.targets.names import Target

Parameter = float | int | str | list[int] | list[float] | None


def explain(
    source: str | Path | ModelProto, node: str | None = None, *, config: Config | None = None
) -> tuple[Decision, ...]:
    """Why each norm or affine was, or was not, folded.

    Args:
        source: the model.
        node: name of a node or of one of its outputs; None for all sites. A node that is no site itself is answered with
            the sites that concern it.

    Raises:
        UsageError: `usage.no_node`, the model has no such node.
    """
    model, planned = plan_only(source, config)
    if node is None:
        return planned.plan.decisions
    return _about(model, planned, node)


def _about(model: Model, planned: Planned, name: str) -> tuple[Decision, ...]:
    plan = planned.plan
    shown = _shown(model, planned)
    found = [*find_nodes(model, name), *find_nodes(shown, name), *find_nodes(planned.model, name)]
    if not found:
        raise UsageError(
            "usage.no_node",
            f"the model has no node and no output named {name!r}",
            hint="`normfold inspect` lists the norms",
        )
    keys = {node.key for node in found}
    if shown is not model:  # a node of a body, or a call, means what stands in its place
        keys |= {
            node.key for scope in shown.scopes() for node in scope.nodes if node.body_key in keys or node.call in keys
        }
    labels = {node.label for node in found}
    own = tuple(decision for decision in plan.decisions if decision.site in keys)
    return own or tuple(decision for decision in plan.decisions if labels & set(decision.nodes))


def inspect(source: str | Path | ModelProto, *, config: Config | None = None) -> InspectReport:
    """The norms of a model with their parameters at a glance, and what would become of them."""
    model, planned = plan_only(source, config)
    plan = planned.plan
    decisions = {decision.site: decision for decision in plan.decisions}
    constants = Constants()
    shown = _shown(model, planned)
    found = survey(shown, Target, Signatures(inline(model)) if model.functions else None)
    known = {node.key for one in found for node in one.site.dead}
    norms = [
        _norm(node, constants, decisions.get(node.key))
        for scope in shown.scopes()
        for node in scope.nodes
        if _is_norm(node) and node.key not in known
    ]
    norms += [_recognised(one, decisions.get(one.site.end.key)) for one in found]
    return InspectReport(
        version=__version__,
        path="<ModelProto>" if model.path is None else str(model.path),
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in sorted(model.opset.items())},
        nodes=node_count(model),
        functions=len(model.functions),
        parameters_bytes=_parameter_bytes(model),
        external_data=model.has_external_data(),
        inputs=tuple(value.name for value in model.graph.inputs if value.tensor is None),
        outputs=tuple(value.name for value in model.graph.outputs),
        norms=tuple(norms),
        affines=sum(decision.rule == "NF102" for decision in plan.decisions),
        warnings=tuple(model.warnings),
    )


def _shown(model: Model, planned: Planned) -> Model:
    """The model with the calls inlined that the plan inlines, and nothing else changed."""
    return inline(model, planned.model.inlined).model


def _is_norm(node: Node) -> bool:
    return is_norm_operator(node) or (not node.domain and node.op_type == BATCH_NORM)


def _parameter_bytes(model: Model) -> int:
    return sum(tensor.nbytes for scope in model.scopes() for _, tensor in scope.outline.initializers)


def _norm(node: Node, constants: Constants, decision: Decision | None) -> NormReport:
    batch_norm = node.op_type == BATCH_NORM
    scale = constants.get(node.input(1))
    shown: dict[str, Parameter] = dict(_batch_norm(node, constants)) if batch_norm else _plain(parameters(node))
    return NormReport(
        node=node.label,
        op_type=node.op_type,
        kind="running statistics" if batch_norm else "statistics of its input",
        scope=node.scope.path,
        channels=scale.dims[0] if scale is not None and len(scale.dims) == 1 else None,
        parameters=shown,
        foldable="" if decision is None else f"{decision.outcome.value} {decision.code}: {decision.message}",
    )


def _recognised(found: Surveyed, decision: Decision | None) -> NormReport:
    """A norm that was recognised by what it computes."""
    site, norm = found.site, found.site.norm
    shown: dict[str, Parameter] = {"axes": list(norm.axes), "epsilon": norm.epsilon}
    if norm.groups is not None:
        shown["groups"] = norm.groups
    for name, values, dynamic in (("gamma", norm.gamma, norm.scale), ("beta", norm.beta, norm.bias)):
        if values is not None:
            shown[name] = _range(values)
        elif dynamic is not None:
            shown[name] = dynamic
    return NormReport(
        node=site.end.label,
        op_type=site.end.op_type,
        kind="statistics of its input",
        scope=site.end.scope.path,
        channels=None,
        parameters=shown,
        foldable="" if decision is None else f"{decision.outcome.value} {decision.code}: {decision.message}",
        nodes=len(site.dead),
        meaning=found.meaning,
        targets={target.value: _becomes(one) for target, one in found.becomes.items()},
    )


def _becomes(decision: Decision) -> str:
    if decision.outcome is Outcome.APPLIED:
        return decision.message.partition(" became ")[2].partition(";")[0]
    why = decision.message.partition("; ")[2] or decision.message.partition(": ")[2]
    return f"stays: {why.removeprefix('it stays, because ')}"


def _plain(values: dict[str, object]) -> dict[str, Parameter]:
    return {name: value if isinstance(value, (int, float, str)) else str(value) for name, value in values.items()}


def _batch_norm(node: Node, constants: Constants) -> dict[str, Parameter]:
    """Epsilon and the range of each statistic: enough to see a dead or exploding one."""
    given = {name: attributes.shown(attribute) for name, attribute in node.attributes.items()}
    epsilon, mode = given.get("epsilon", 1e-5), given.get("training_mode", 0)
    result: dict[str, Parameter] = {"epsilon": epsilon if isinstance(epsilon, str) else float(np.float32(epsilon))}
    if mode:
        result["training_mode"] = mode
    for slot, name in enumerate(("gamma", "beta", "mean", "var"), start=1):
        values = constants.array(node.input(slot))
        if values is not None and values.size:
            with np.errstate(invalid="ignore"):  # signalling NaN
                result[name] = _range(values.astype(np.float64))
    return result


def _range(values: np.ndarray) -> list[float] | None:
    low, high = float(values.min()), float(values.max())
    return [low, high] if np.isfinite([low, high]).all() else None


def counts(decisions: Sequence[Decision]) -> dict[str, int]:
    """How often each code occurs."""
    result: dict[str, int] = {}
    for decision in decisions:
        result[decision.code] = result.get(decision.code, 0) + 1
    return dict(sorted(result.items()))
