"""Element types."""

from __future__ import annotations

from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Value
from normfold.model.shapes import contrib
from normfold.model.shapes.control import sources
from normfold.model.shapes.dims import Hints, declared_type
from normfold.model.shapes.table import rule_of
from normfold.model.shapes.tensor_lists import elements

_FLOAT, _UINT8, _INT32, _INT64, _BOOL = 1, 2, 6, 7, 9

_FIXED_TYPE = {
    **dict.fromkeys(("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression"), _INT64),
    **dict.fromkeys(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "Not"), _BOOL),
    **dict.fromkeys(("IsNaN", "IsInf"), _BOOL),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), _INT32),
}
_TYPE_INPUT = {
    "Where": 1, "CastLike": 1, "DequantizeLinear": 1, "OneHot": 2, "QLinearConv": 7, "QLinearMatMul": 7,
    "RMSNormalization": 1, "SimplifiedLayerNormalization": 1,  # they end in the type of their scale
}  # fmt: skip
_SAME_TYPE_OUTPUTS = ("Split", "LSTM", "GRU", "RNN", "BatchNormalization")


class ElementTypes:
    """Answers what element type a value has; remembers every answer."""

    def __init__(self, constants: Constants, hints: Hints) -> None:
        self._constants = constants
        self._hints = hints
        self._known: dict[int, int | None] = {}

    def get(self, value: Value) -> int | None:
        """The ONNX element type of a value, None if unknown."""
        path: list[Value] = []
        current: Value | None = value
        found: int | None = None
        while current is not None:
            if id(current) in self._known:
                found = self._known[id(current)]
                break
            path.append(current)
            found, current = self._step(current)
        for item in path:
            self._known[id(item)] = found
        return found

    def _step(self, value: Value) -> tuple[int | None, Value | None]:
        if value.tensor is not None:
            return value.tensor.data_type, None
        node = value.producer
        if node is None:
            return declared_type(value.type) if value.type else self._hints(value)[1], None
        if node.domain or node.is_call or node.is_bound_by_caller:
            is_operator = node.domain == contrib.DOMAIN and not node.is_call
            typed = contrib.type_source(node, value.output_slot) if is_operator else None
            return (self._hints(value)[1] if typed is None else None), typed
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.attributes.get("output_dtype") is not None:
            return int(attributes.get(node, "output_dtype", 0)) or None, None
        if node.op_type == "QuantizeLinear":
            return (_UINT8, None) if node.input(2) is None else (None, node.input(2))
        if node.op_type in ("If", "Loop"):
            return None, next(iter(sources(node, value.output_slot)), None)
        if node.op_type == "SequenceAt":
            return None, next(iter(elements(node)), None)
        if node.op_type == "Cast":
            known = not attributes.unexpected(node, ("to", "saturate"))
            return (int(attributes.get(node, "to", 0)) or None if known else None), None
        if node.op_type == "DequantizeLinear":
            wanted = int(attributes.get(node, "output_dtype", 0))
            return (wanted, None) if wanted else (None, node.input(1))
        if node.op_type in _FIXED_TYPE:
            return _FIXED_TYPE[node.op_type], None
        if node.op_type == "ConstantOfShape":
            filled = node.attributes.get("value")
            return (_FLOAT if filled is None else int(filled.t.data_type)), None
        if node.op_type == "Constant":
            source = self._constants.get(value)
            return (None if source is None else source.data_type), None
        if value.output_slot and node.op_type == "TopK":
            return _INT64, None
        if value.output_slot == 0 and node.op_type == "DynamicQuantizeLinear":
            return _UINT8, None
        if value.output_slot and node.op_type not in _SAME_TYPE_OUTPUTS:
            return None, None
        return (None, node.input(_TYPE_INPUT.get(node.op_type, 0))) if rule_of(node) is not None else (None, None)
