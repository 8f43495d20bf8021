"""A piece of graph, from values that are given to values that are wanted, in float64."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from normfold.errors import InputError
from normfold.model import attributes
from normfold.model.constants import Constants
from normfold.model.graph import Node, Value
from normfold.model.tensors import Unreadable
from normfold.norm.evaluate import elementwise, movement, norms, reductions
from normfold.norm.evaluate.call import Array, Call, Operator, Unknown, widened

_OPERATORS: dict[tuple[str, str], Operator] = {
    **{
        ("", name): operator
        for family in (elementwise, movement, reductions, norms)
        for name, operator in family.OPERATORS.items()
    },
    **{("com.microsoft", name): operator for name, operator in norms.CONTRIB.items()},
}
# Operators that ask for nothing but the shape of what they read, and those that do not change a shape.
_OF_SHAPES = ("Shape", "Size")
_SHAPE_KEEPING = (("", "Cast"), ("", "CastLike"), ("", "Identity"))


@dataclass(frozen=True, slots=True)
class _Step:
    """A node to evaluate, what it reads, and what nobody needs any more once it is done."""

    node: Node
    operator: Operator
    operands: tuple[Value | None, ...]
    dropped: list[int]


class Plan:
    """What to evaluate in which order; may run any number of times, on arrays of different shapes.

    Args:
        constants: for the types that they know.
        outputs: what is wanted.
        known: constants of the piece, by the identity of their value.
        steps: in execution order.
    """

    def __init__(
        self, constants: Constants, outputs: Sequence[Value], known: dict[int, Array], steps: list[_Step]
    ) -> None:
        self._constants = constants
        self._outputs = outputs
        self._known = known
        self._steps = steps

    @property
    def nodes(self) -> list[Node]:
        """The nodes that are evaluated, in execution order."""
        return [step.node for step in self._steps]

    def run(self, given: Mapping[Value, Array]) -> list[Array]:
        """The wanted values; `given` must hold the values that the plan was made for.

        Raises:
            Unknown: a node cannot be evaluated on arrays of these shapes and types.
        """
        memory = dict(self._known)
        memory.update((id(value), widened(array)) for value, array in given.items())
        fixed = {id(value) for value in given}
        with np.errstate(all="ignore"):
            for step in self._steps:
                operands = tuple(None if value is None else memory[id(value)] for value in step.operands)
                for value, result in zip(step.node.outputs, self._evaluated(step, operands), strict=False):
                    if value is not None and result is not None and id(value) not in fixed:
                        memory[id(value)] = result
                for key in step.dropped:
                    memory.pop(key, None)
        return [memory[id(value)] for value in self._outputs]

    def _evaluated(self, step: _Step, operands: tuple[Array | None, ...]) -> Sequence[Array | None]:
        try:
            results = step.operator.evaluate(Call(step.node, operands, self._constants))
        except (ValueError, IndexError, TypeError, KeyError, OverflowError, ZeroDivisionError, MemoryError) as error:
            raise Unknown(f"{step.node.op_type} {step.node.label!r}: {error}") from error
        return (results,) if isinstance(results, np.ndarray | np.generic) else results


class Evaluator:
    """Evaluates pieces of graph in float64.

    Constants are widened from the type that they are stored in, a Cast between float types does nothing, integers are
    int64. What the operators do otherwise is what ONNX says for the opset of their scope.

    Args:
        constants: what is a constant; with `type_of` set, the second operand of a CastLike need not be evaluated.
    """

    def __init__(self, constants: Constants) -> None:
        self._constants = constants

    def run(self, outputs: Sequence[Value], given: Mapping[Value, Array]) -> list[Array]:
        """The wanted values, each float64, int64 or bool.

        Args:
            outputs: what is wanted.
            given: arrays for values, whoever makes them; nothing behind them is evaluated.

        Raises:
            Unknown: an operator, an attribute or a form of it that the evaluator does not know, or a value that is
                neither given nor a constant nor made by a node.
        """
        return self.plan(outputs, given.keys()).run(given)

    def plan(self, outputs: Sequence[Value], given: Collection[Value]) -> Plan:
        """How to get from the values that are given to those that are wanted.

        Raises:
            Unknown: as `run`, as far as it shows without arrays.
        """
        ready = {id(value) for value in given}
        same_shape = _same_shape(given)
        known: dict[int, Array] = {}
        steps: list[_Step] = []
        drafts: dict[int, _Step] = {}
        pending = list(outputs)
        while pending:
            value = pending[-1]
            if id(value) in ready:
                pending.pop()
                continue
            step = drafts.get(id(value.producer))
            if step is None:
                constant = self._constant(value)
                if constant is not None:
                    known[id(value)] = constant
                    ready.add(id(value))
                    continue
                step = self._step(value, given, same_shape)
                drafts[id(value.producer)] = step
            missing = [operand for operand in step.operands if operand is not None and id(operand) not in ready]
            if missing:
                pending.extend(missing)
                continue
            steps.append(step)
            ready.update(id(output) for output in _made(step))
            if id(value) not in ready:
                raise Unknown(f"output {value.output_slot} of {step.node.op_type} {step.node.label!r}")
        _mark_last_uses(steps, outputs)
        return Plan(self._constants, outputs, known, steps)

    def _constant(self, value: Value) -> Array | None:
        source = self._constants.get(value)
        if source is None:
            return None
        try:
            return widened(source.array())
        except (Unreadable, InputError) as error:
            raise Unknown(f"the constant {value.name!r} cannot be read: {error}") from error

    def _step(self, value: Value, given: Collection[Value], same_shape: Mapping[int, Value]) -> _Step:
        node = value.producer
        if node is None:
            raise Unknown(f"{value.name!r} is no constant, and no node makes it")
        operator = None if node.is_call else _OPERATORS.get((node.domain, node.op_type))
        if operator is None:
            raise Unknown(f"operator {node.domain and node.domain + '.'}{node.op_type} of {node.label!r}")
        attribute = attributes.unexpected(node, operator.attributes)
        if attribute is not None:
            raise Unknown(f"attribute {attribute} of {node.op_type} {node.label!r}")
        operands: list[Value | None] = list(node.inputs)
        if node.op_type in _OF_SHAPES and operands and operands[0] is not None:
            operands[0] = same_shape.get(id(operands[0]), operands[0])
        total = _given_sum(node, operator, given)
        if total is not None:
            operands[0] = total
        left_out = set(operator.added) if total is not None else set()
        if operator.reads is not None:
            left_out.update(set(range(len(operands))).difference(operator.reads(node, self._constants)))
        return _Step(node, operator, tuple(None if slot in left_out else v for slot, v in enumerate(operands)), [])


def _given_sum(node: Node, operator: Operator, given: Collection[Value]) -> Value | None:
    """The sum that an operator normalises, where it is one of its outputs and given."""
    slot = operator.sum_output
    total = node.outputs[slot] if slot is not None and slot < len(node.outputs) else None
    return total if total in given else None


def _same_shape(given: Collection[Value]) -> dict[int, Value]:
    """Values in front of those that are given and of the same shape: a Shape is often taken in front of a Cast."""
    found: dict[int, Value] = {}
    for value in given:
        current = value
        while current.producer is not None and (current.producer.domain, current.producer.op_type) in _SHAPE_KEEPING:
            operand = current.producer.input(0)
            if operand is None:
                break
            found.setdefault(id(operand), value)
            current = operand
    return found


def _made(step: _Step) -> Iterator[Value]:
    """The outputs that an operator can make and that have a name."""
    makes = step.operator.makes
    return (
        value for slot, value in enumerate(step.node.outputs) if value is not None and (makes is None or slot in makes)
    )


def _mark_last_uses(steps: list[_Step], outputs: Sequence[Value]) -> None:
    """A norm of a large tensor must not keep every intermediate of the piece in memory."""
    needed = {id(value) for value in outputs}
    for step in reversed(steps):
        for value in (*step.operands, *step.node.outputs):
            if value is not None and id(value) not in needed:
                needed.add(id(value))
                step.dropped.append(id(value))
