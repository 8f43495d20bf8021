"""In which versions of the standard a node is valid as it stands: read from the standard's own schemas."""

from __future__ import annotations

from functools import cache

import onnx

from normfold.model.dtypes import DOUBLE, FLOAT, numpy_dtype
from normfold.targets.lowering import Op

FIRST = 7  # elementwise operators broadcast as numpy does from here on
_NAMES: dict[int, str] = {FLOAT: "float", DOUBLE: "double"}  # where the standard's name is not numpy's


def span(op: Op, data_type: int) -> tuple[int, int | None]:
    """The lowest version in which a node of the standard domain is valid, and the highest if a later one breaks it.

    An operator that the standard does not have (onnxruntime's SimplifiedLayerNormalization) is valid everywhere.

    Raises:
        ValueError: no version allows it, which is a mistake of the spelling.
    """
    written = len(op.inputs)
    return _span(op.op_type, data_type, written, tuple(sorted(op.attributes)), op.attributes.get("to"))


@cache
def _span(
    op_type: str, data_type: int, inputs: int, attributes: tuple[str, ...], target: int | None
) -> tuple[int, int | None]:
    newest = onnx.defs.onnx_opset_version()
    if not any(_schema(op_type, version) for version in range(FIRST, newest + 1)):
        return FIRST, None
    valid = [v for v in range(FIRST, newest + 1) if _is_valid(op_type, data_type, inputs, attributes, target, v)]
    if not valid:
        raise ValueError(f"no version of the standard has {op_type} with {inputs} inputs and {attributes}")
    last = next((v - 1 for v in range(valid[0], newest + 1) if v not in valid), None)
    return valid[0], last


def _is_valid(
    op_type: str, data_type: int, inputs: int, attributes: tuple[str, ...], target: int | None, version: int
) -> bool:
    schema = _schema(op_type, version)
    if schema is None or schema.deprecated:
        return False
    required = {name for name, attribute in schema.attributes.items() if attribute.required}
    return (
        schema.min_input <= inputs <= schema.max_input
        and required <= set(attributes) <= set(schema.attributes)
        and _takes(schema, schema.inputs[0].type_str, data_type)
        and (target is None or _takes(schema, schema.outputs[0].type_str, target))
    )


def _takes(schema: onnx.defs.OpSchema, variable: str, data_type: int) -> bool:
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return f"tensor({_type_name(data_type)})" in allowed.get(variable, [variable])


def _type_name(data_type: int) -> str:
    dtype = numpy_dtype(data_type)
    assert dtype is not None
    return _NAMES.get(data_type, str(dtype.name))


def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None
