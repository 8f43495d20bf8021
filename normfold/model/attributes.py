"""Reading attributes, under a closed world: what a rule does not mention must have its schema default.

Most silent wrong results in this field are "the attribute that nobody looked at".
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

import onnx
from onnx import AttributeProto, helper

from normfold.model.graph import Node

# Attributes that never change what an operator computes on the versions of the standard that define them.
_WITHOUT_EFFECT = {("BatchNormalization", "momentum"), ("BatchNormalization", "consumed_inputs"), ("Dropout", "seed")}
_CONSUMED = "consumed_inputs"  # opset 1 memory hints


def plain(attribute: AttributeProto) -> Any:
    """The Python value of an attribute."""
    return helper.get_attribute_value(attribute)


def shown(attribute: AttributeProto) -> Any:
    """The value for people to read; `@name` where the caller of a function gives it, as ONNX text has it."""
    value = f"@{attribute.ref_attr_name}" if attribute.ref_attr_name else plain(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def get(node: Node, name: str, default: Any) -> Any:
    """The value of an attribute, or `default`. Text comes as str."""
    attribute = node.attributes.get(name)
    if attribute is None:
        return default
    value = plain(attribute)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def ints(node: Node, name: str) -> list[int] | None:
    """An attribute that is a list of integers; None if absent."""
    value = get(node, name, None)
    return None if value is None else [int(item) for item in value]


@lru_cache(maxsize=4096)
def declared_types(op_type: str, domain: str, version: int) -> dict[str, int]:
    """The type of each attribute that the standard defines for an operator; nothing for one that it does not know."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return {}
    kinds = AttributeProto.AttributeType
    return {name: kinds.Value(str(found.type).rpartition(".")[2]) for name, found in schema.attributes.items()}


@lru_cache(maxsize=4096)
def _defaults(op_type: str, domain: str, version: int) -> dict[str, Any] | None:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    return {name: plain(a.default_value) if a.default_value.name else None for name, a in schema.attributes.items()}


def unexpected(node: Node, known: Collection[str]) -> str | None:
    """The first attribute outside `known` whose value is not the schema's default; None if there is none.

    An attribute that the schema does not know counts as unexpected, and so does one that refers to an attribute of the
    enclosing function: its value is not known here.
    """
    for name, attribute in node.attributes.items():
        if attribute.ref_attr_name:
            return name  # bound by whoever calls the function that holds the node
        if name in known or name == _CONSUMED or (node.op_type, name) in _WITHOUT_EFFECT:
            continue
        defaults = _defaults(node.op_type, node.domain, node.scope.version)
        if defaults is None or name not in defaults or plain(attribute) != defaults[name]:
            return name
    return None
