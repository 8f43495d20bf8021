"""The node that a step of the table works on, and what comes out in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from onnx import NodeProto, TensorProto, helper

from normfold.affine.reasons import Refused
from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.model.shapes import Dims, Shapes
from normfold.model.tensors import Float64
from normfold.targets.lowering import Constant

# A name that nothing in the model has yet, made from a hint.
Fresh = Callable[[str], str]

INT64: int = TensorProto.INT64
FLOAT: int = TensorProto.FLOAT


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """What stands in the place of a node.

    Args:
        proto: the node that makes the outputs; the same name, documentation and outputs as before, but for unread outputs
            that had to go.
        before: new nodes in execution order, which have to run before it.
        constants: new tensors under the names that the nodes read.
    """

    proto: NodeProto
    before: tuple[NodeProto, ...] = ()
    constants: tuple[Constant, ...] = ()


class Form:
    """A node on its way through the versions: what the steps so far made of it.

    Args:
        node: the original.
        wanted: the opset that it is brought to.
        constants, shapes: of the model.
        fresh: makes names for what is new.
    """

    def __init__(self, node: Node, wanted: int, constants: Constants, shapes: Shapes, fresh: Fresh) -> None:
        self.node = node
        self.wanted = wanted
        self.op_type = node.op_type
        self.inputs: list[str] = list(node.proto.input)
        self.outputs: list[str] = list(node.proto.output)
        self._attributes = dict(node.attributes)
        self._values = {value.name: value for value in node.inputs if value is not None}
        self._constants = constants
        self._shapes = shapes
        self._fresh = fresh
        self._before: list[NodeProto] = []
        self._new: dict[str, Constant] = {}

    # --- reading ---

    def refuse(self, why: str) -> NoReturn:
        """There is no exact form.

        Raises:
            Refused: `opset`.
        """
        label = self.node.label
        raise Refused("opset", f"{self.node.op_type} {label!r} has no exact form in opset {self.wanted}: {why}", label)

    def name(self, slot: int) -> str:
        """What is read in an input slot, "" where it is left out."""
        return self.inputs[slot] if slot < len(self.inputs) else ""

    def has(self, name: str) -> bool:
        """Whether an attribute is given."""
        return name in self._attributes

    def get(self, name: str, default: Any) -> Any:
        """The value of an attribute; text as str.

        Raises:
            Refused: a caller of the function that holds the node gives it.
        """
        attribute = self._attributes.get(name)
        if attribute is None:
            return default
        if attribute.ref_attr_name:
            self.refuse(f"the attribute {name!r} is given where the function is called")
        value = attributes.plain(attribute)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def ints(self, name: str) -> list[int] | None:
        """An attribute that is a list of integers; None if it is left out."""
        value = self.get(name, None)
        return None if value is None else [int(item) for item in value]

    def value(self, slot: int) -> Value | None:
        """The value that an input slot reads; None for one that is left out or new."""
        return self._values.get(self.name(slot))

    def dims(self, slot: int) -> Dims | None:
        """Its dimensions, None if even their number is unknown."""
        value = self.value(slot)
        return None if value is None else self._shapes.dims(value)

    def data_type(self, slot: int) -> int | None:
        """Its element type, None if unknown."""
        value = self.value(slot)
        return None if value is None else self._shapes.data_type(value)

    def numbers(self, slot: int) -> Float64 | None:
        """Its values, widened; None where they are not constant."""
        new = self._new.get(self.name(slot))
        values = self._constants.array(self.value(slot)) if new is None else new.values
        return None if values is None else np.asarray(values, np.float64)

    # --- changing ---

    def take(self, name: str, default: Any = None) -> Any:
        """Remove an attribute, and its value."""
        value = self.get(name, default)
        self._attributes.pop(name, None)
        return value

    def give(self, name: str, value: Any) -> None:
        """Give an attribute a value."""
        self._attributes[name] = helper.make_attribute(name, value)

    def rename(self, op_type: str) -> None:
        """The same node under another operator."""
        self.op_type = op_type

    def put(self, slot: int, name: str) -> None:
        """Read a value in an input slot, "" to leave it out."""
        self.inputs += [""] * (slot + 1 - len(self.inputs))
        self.inputs[slot] = name

    def insert(self, slot: int, name: str) -> None:
        """Read a value in a new input slot, which moves those behind it up."""
        self.inputs.insert(slot, name)

    def constant(self, hint: str, values: Any, data_type: int) -> str:
        """A new constant, float64 or int64 by its type; the name to read it by."""
        kind = np.int64 if data_type == INT64 else np.float64
        name = self._fresh(f"{self.node.label}.{hint}")
        self._new[name] = Constant(name, np.asarray(values, kind), data_type)
        return name

    def insert_before(
        self, op_type: str, inputs: Sequence[str], hint: str, settings: dict[str, Any] | None = None
    ) -> str:
        """A new node that runs before this one; the name of its output."""
        output = self._fresh(f"{self.node.label}.{hint}")
        settings = settings or {}
        proto = helper.make_node(op_type, list(inputs), [output], name=self._fresh(output), **settings)
        proto.domain = self.node.proto.domain
        self._before.append(proto)
        return output

    @property
    def attribute_names(self) -> set[str]:
        """The attributes that are given."""
        return set(self._attributes)

    # --- the end ---

    def result(self) -> Converted | None:
        """The node in its new form; None where it is valid as it stands."""
        old = self.node.proto
        proto = NodeProto()
        proto.CopyFrom(old)
        proto.op_type = self.op_type
        del proto.input[:], proto.output[:], proto.attribute[:]
        proto.input.extend(self.inputs)
        proto.output.extend(self.outputs)
        proto.attribute.extend(self._attributes.values())
        if proto == old and not self._before:
            return None
        read = {name for item in (proto, *self._before) for name in item.input}
        constants = tuple(constant for name, constant in self._new.items() if name in read)
        return Converted(proto, tuple(self._before), constants)

    def is_unread(self, slot: int) -> bool:
        """Whether nothing reads an output, inside the model or from outside."""
        value = self.node.outputs[slot] if slot < len(self.node.outputs) else None
        return value is None or not (value.uses or value.is_output)
