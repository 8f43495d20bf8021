"""What onnx says about the operators of the standard domain, version by version, and when a newer schema only widens one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from onnx import TensorProto, defs
from onnx.defs import OpSchema

from normfold.model.attributes import plain

_Option = OpSchema.FormalParameterOption
# Which option of an input or output allows all that another one does.
_WIDER = {(_Option.Single, _Option.Optional), (_Option.Single, _Option.Variadic)}


class Step(NamedTuple):
    """An operator in two versions, with no other one in between. `old` is None where the name was not in use."""

    old: OpSchema | None
    new: OpSchema


@cache
def _histories() -> dict[str, tuple[OpSchema, ...]]:
    found: dict[str, list[OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if not schema.domain:
            found.setdefault(schema.name, []).append(schema)
    return {name: tuple(sorted(items, key=lambda s: int(s.since_version))) for name, items in found.items()}


def history(op_type: str) -> tuple[OpSchema, ...]:
    """All schemas of an operator of the standard domain, oldest first; none if there is no such operator."""
    return _histories().get(op_type, ())


def names() -> Iterable[str]:
    """All operators of the standard domain."""
    return sorted(_histories())


def steps(op_type: str, have: int, wanted: int) -> Iterator[Step]:
    """The changes of an operator on the way from one opset to a newer one."""
    versions = history(op_type)
    first = bisect_right([schema.since_version for schema in versions], have)
    last = bisect_right([schema.since_version for schema in versions], wanted)
    on_the_way = [versions[first - 1] if first else None, *versions[first:last]]
    for old, new in pairwise(on_the_way):
        assert new is not None
        yield Step(old, new)


def is_compatible(step: Step) -> bool:
    """Whether every node that the old schema allows is allowed by the new one with the same defaults.

    Inputs and outputs must be the same ones at the same places, with at most further optional ones behind; attributes the
    same with the same defaults, with at most further optional ones. Sets of types may grow; inputs whose types shrink are
    left to `narrowed`. What the text of the schema says is not compared: changes of meaning are entries of the table.
    """
    old, new = step
    return (
        old is not None
        and not new.deprecated
        and _formals_fit(old.inputs, new.inputs)
        and _formals_fit(old.outputs, new.outputs)
        and _attributes_fit(old, new)
        and _ties(new, old) <= _ties(old, old)
        and all(
            _types(a) <= _types(b) for a, b in zip(old.outputs, new.outputs, strict=False) if not _follows(old, new, a)
        )
    )


def narrowed(step: Step) -> dict[int, frozenset[str]]:
    """Inputs that must be of fewer types than before, by slot, with the types that are left (`tensor(float)`)."""
    old, new = step
    if old is None:
        return {}
    pairs = enumerate(zip(old.inputs, new.inputs, strict=False))
    return {slot: _types(b) for slot, (a, b) in pairs if not _types(a) <= _types(b)}


def type_text(data_type: int) -> str:
    """An ONNX element type as schemas spell it."""
    return f"tensor({TensorProto.DataType.Name(data_type).lower()})"


def _types(formal: OpSchema.FormalParameter) -> frozenset[str]:
    return frozenset(formal.types)


def _formals_fit(old: Iterable[OpSchema.FormalParameter], new: Iterable[OpSchema.FormalParameter]) -> bool:
    before, after = list(old), list(new)
    if len(after) < len(before) or any(formal.option != _Option.Optional for formal in after[len(before) :]):
        return False
    return all(
        (a.option == b.option or (a.option, b.option) in _WIDER)
        and (a.is_homogeneous == b.is_homogeneous or not b.is_homogeneous)
        and b.min_arity <= a.min_arity
        for a, b in zip(before, after, strict=False)
    )


def _attributes_fit(old: OpSchema, new: OpSchema) -> bool:
    if not set(old.attributes) <= set(new.attributes):
        return False
    for name, attribute in new.attributes.items():
        before = old.attributes.get(name)
        if before is None:
            if attribute.required:
                return False
        elif (
            attribute.type != before.type
            or attribute.required > before.required
            or _default(attribute) != _default(before)
        ):
            return False
    return True


def _default(attribute: OpSchema.Attribute) -> object:
    return plain(attribute.default_value) if attribute.default_value.name else None


def _ties(schema: OpSchema, extent: OpSchema) -> set[tuple[int, int]]:
    """Inputs and outputs that have one type; those that `extent` does not have yet bind no node of it."""
    inputs = [formal.type_str for formal in schema.inputs][: len(extent.inputs)]
    outputs = [formal.type_str for formal in schema.outputs][: len(extent.outputs)]
    texts = [*enumerate(inputs), *((-1 - slot, text) for slot, text in enumerate(outputs))]
    return {(i, j) for i, a in texts for j, b in texts if i < j and a == b}


def _follows(old: OpSchema, new: OpSchema, output: OpSchema.FormalParameter) -> bool:
    """Whether an output has, in both versions, the type of an input; then a narrower type is that input's affair."""
    slot = next(i for i, formal in enumerate(old.outputs) if formal.name == output.name)
    before, after = old.outputs[slot].type_str, new.outputs[slot].type_str
    pairs = zip(old.inputs, new.inputs, strict=False)
    return any(a.type_str == before and b.type_str == after for a, b in pairs)
