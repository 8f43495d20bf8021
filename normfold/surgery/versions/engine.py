"""Bring nodes to a newer opset."""

from __future__ import annotations

from functools import lru_cache

from onnx import defs

from normfold.affine.reasons import Refused
from normfold.model.constants import Constants
from normfold.model.graph import Node, Scope
from normfold.model.shapes import Shapes
from normfold.surgery.versions.form import Converted, Form, Fresh
from normfold.surgery.versions.schemas import Step, history, is_compatible, narrowed, steps, type_text
from normfold.surgery.versions.table import OF_A_RUNTIME, OLDEST, REVIEWED, TABLE


def raise_opset(
    root: Scope, wanted: int, constants: Constants, shapes: Shapes, fresh: Fresh
) -> dict[Scope, dict[int, Converted]]:
    """What has to change for a graph or function body, and all scopes inside it, to be read by a newer opset.

    A file is valid only if its functions mean the same under the opset of the graph and under their own, so where the
    graph is raised, each function of the model is raised to the same opset by a call of its own.

    Args:
        root: the main graph or the body of a function.
        wanted: version of the standard domain; an older one than that of the scope changes nothing.
        constants, shapes: of the model.
        fresh: makes names that nothing in the model has.

    Returns:
        The nodes that are not valid as they stand, by position in their scope; scopes without one are left out.

    Raises:
        Refused: `opset`, with the first node that has no exact form, or because a version is outside of what is known.
    """
    have = root.version
    if not have or have >= wanted:
        return {}
    if have < OLDEST:
        raise Refused("opset", f"{root.path} imports opset {have}; exact conversions are known from opset {OLDEST} on")
    if wanted > defs.onnx_opset_version():
        raise Refused("opset", f"the installed onnx knows opsets up to {defs.onnx_opset_version()}, not {wanted}")
    found: dict[Scope, dict[int, Converted]] = {}
    for scope in root.walk():
        for node in scope.nodes:
            converted = convert(node, wanted, constants, shapes, fresh)
            if converted is not None:
                found.setdefault(scope, {})[node.index] = converted
    return found


def convert(node: Node, wanted: int, constants: Constants, shapes: Shapes, fresh: Fresh) -> Converted | None:
    """A node in the form that it has in a newer opset; nodes of other domains and calls of functions stay.

    Args:
        node: of a scope that imports opset 7 or newer.
        wanted: version of the standard domain, which the installed onnx knows.
        constants, shapes: of the model.
        fresh: makes names that nothing in the model has.

    Returns:
        None if the node is valid as it stands and means the same.

    Raises:
        Refused: `opset`, there is no exact form, or none that is known to be exact.
    """
    if node.domain or node.is_call or not _is_affected(node.op_type, node.scope.version, wanted):
        return None
    form = Form(node, wanted, constants, shapes, fresh)
    if not history(node.op_type):
        form.refuse("it is no operator of the standard")
    version = node.scope.version
    while True:
        step = next(steps(form.op_type, version, wanted), None)
        if step is None:
            return form.result()
        _take(form, step)
        version = int(step.new.since_version)


@lru_cache(maxsize=1024)
def _is_affected(op_type: str, have: int, wanted: int) -> bool:
    """Whether an operator changes in between, as far as is known."""
    if not history(op_type):
        return have < wanted and op_type not in OF_A_RUNTIME
    return next(steps(op_type, have, wanted), None) is not None


def _take(form: Form, step: Step) -> None:
    """Bring a node one version further."""
    _require_valid(form, step)
    rule = TABLE.get((step.new.name, int(step.new.since_version)))
    if rule is not None:
        rule(form)
    elif step.new.since_version > REVIEWED or not is_compatible(step):
        form.refuse(f"what {step.new.name} means there is not known to be the same")
    else:
        _require_types(form, step)


def _require_valid(form: Form, step: Step) -> None:
    """What a version does not know may get a meaning in the next one."""
    if step.old is None:
        return
    strange = (form.attribute_names & set(step.new.attributes)) - set(step.old.attributes)
    if strange or len(form.inputs) > step.old.max_input:
        what = f"an attribute {min(strange)!r}" if strange else "more inputs"
        form.refuse(f"it has {what}, which {step.old.name} does not have in opset {step.old.since_version}")


def _require_types(form: Form, step: Step) -> None:
    for slot, allowed in narrowed(step).items():
        found = form.data_type(slot)
        if found is None or type_text(found) not in allowed:
            form.refuse(f"input {slot} is not proven to be of a type that {step.new.name} still takes")
