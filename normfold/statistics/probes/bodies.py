"""The way out of the bodies of If, Loop and Scan: what a probe makes there becomes an output of the main graph.

Every value that is lifted has rows of a known width, `[R, width]`, and leaves each operator as rows again:

    If      a further output of both branches; the branch in which it is not made returns no rows
    Loop    a further state that begins without rows, and to which every iteration appends its own
    Scan    a further scan output, `[iterations, R, width]`, taken apart again behind the operator

so that what an untaken branch or a loop without iterations would have made simply has no rows. A Loop appends to a state
instead of handing out a scan output because the number of rows may then differ between iterations, as it does for a probe in
a branch inside of the loop. A Scan allows neither: its states keep their shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ValueInfoProto, helper

from normfold.model import dtypes
from normfold.model.graph import Node, Scope
from normfold.model.outline import parse
from normfold.model.patch import Candidate
from normfold.statistics.probes.graph_edit import Writer

# Inputs of the body of a Loop that are no states: the number of the iteration, and the condition.
_LOOP_INPUTS = 2
# Before this opset both branches of an If must return one shape, as far as it is known.
_OTHER_SHAPES = 11


@dataclass(frozen=True, slots=True)
class _Exit:
    """One value on its way out of one operator.

    Args:
        scope: the body in which it is made.
        inner, outer: its name there and outside.
        data_type: ONNX element type.
        width: its second dimension.
    """

    scope: Scope
    inner: str
    outer: str
    data_type: int
    width: int

    def info(self, name: str) -> ValueInfoProto:
        """What a graph declares about it. A Scan wants its outputs to have a shape, even one without numbers."""
        return helper.make_tensor_value_info(name, self.data_type, (None, self.width))


class Exits:
    """Collects what is to leave bodies, then rewrites the operators around them.

    Args:
        candidate: to be changed.
        prefix: of all names; nothing else has it.
    """

    def __init__(self, candidate: Candidate, prefix: str) -> None:
        self._candidate, self._prefix = candidate, prefix
        self._of: dict[int, tuple[Node, list[_Exit]]] = {}
        self._count = 0

    def lift(self, scope: Scope, name: str, data_type: int, width: int) -> str:
        """Announce a value `[R, width]` of a body; returns the name that it will have in the main graph."""
        while scope.owner is not None:
            outer = f"{self._prefix}/{self._count}"
            self._count += 1
            _, exits = self._of.setdefault(id(scope.owner), (scope.owner, []))
            exits.append(_Exit(scope, name, outer, data_type, width))
            name, scope = outer, scope.owner.scope
        return name

    def write(self) -> None:
        """Rewrite the operators, those inside first."""
        for owner, exits in sorted(self._of.values(), key=lambda item: -item[0].scope.depth):
            {"If": self._leave_if, "Loop": self._leave_loop, "Scan": self._leave_scan}[owner.op_type](owner, exits)

    def _leave_if(self, owner: Node, exits: Sequence[_Exit]) -> None:
        for branch in owner.subgraphs:
            patch = self._candidate.patch(branch)
            writer = Writer.at_end(patch, branch, f"{self._prefix}/{owner.key}/{branch.path}")
            for leaving in exits:
                if branch.version < _OTHER_SHAPES:
                    rows = [_unknown_rows(writer, leaving), *([leaving.inner] if leaving.scope is branch else [])]
                    name = writer.operator("Concat", rows, axis=0)
                else:
                    name = leaving.inner if leaving.scope is branch else _no_rows(writer, leaving)
                patch.added_outputs.append(leaving.info(name))
        self._set_outputs(owner, [*self._outputs(owner, len(owner.subgraphs[0].outputs)), *_outer(exits)])

    def _leave_loop(self, owner: Node, exits: Sequence[_Exit]) -> None:
        body = owner.subgraphs[0]
        states = len(body.inputs) - _LOOP_INPUTS
        patch = self._candidate.patch(body)
        writer = Writer.at_end(patch, body, f"{self._prefix}/{owner.key}/body")
        outside = Writer.beside(self._candidate.patch(owner.scope), owner, f"{self._prefix}/{owner.key}/start")
        grown, start = [], []
        for leaving in exits:
            before = f"{leaving.outer}/before"
            patch.added_inputs.append(leaving.info(before))
            grown.append(leaving.info(writer.operator("Concat", [before, leaving.inner], axis=0)))
            start.append(_no_rows(outside, leaving))
        declared = _declared_outputs(body)
        patch.dropped_outputs |= {info.name for info in declared}
        patch.added_outputs += [*declared[: 1 + states], *grown, *declared[1 + states :]]
        node = self._candidate.patch(owner.scope).node(owner.index)
        given = list(owner.proto.input if node.inputs is None else node.inputs)
        node.inputs = [*_padded(given, _LOOP_INPUTS + states), *start]
        outputs = self._outputs(owner, len(declared) - 1)
        self._set_outputs(owner, [*outputs[:states], *_outer(exits), *outputs[states:]])

    def _leave_scan(self, owner: Node, exits: Sequence[_Exit]) -> None:
        body = owner.subgraphs[0]
        patch = self._candidate.patch(body)
        outside = Writer.beside(
            self._candidate.patch(owner.scope), owner, f"{self._prefix}/{owner.key}/rows", behind=True
        )
        stacked = []
        for leaving in exits:
            patch.added_outputs.append(leaving.info(leaving.inner))
            stacked.append(f"{leaving.outer}/stacked")
            outside.reshape(stacked[-1], (-1, leaving.width), leaving.outer)
        changed = self._candidate.patch(owner.scope).node(owner.index)
        for name in ("scan_output_axes", "scan_output_directions"):  # one number for each scan output
            attribute = owner.attributes.get(name)
            if attribute is not None:
                changed.attributes[name] = helper.make_attribute(name, [*attribute.ints, *(0 for _ in exits)])
        self._set_outputs(owner, [*self._outputs(owner, len(body.outputs)), *stacked])

    def _outputs(self, owner: Node, count: int) -> list[str]:
        """Names of the outputs of an operator; trailing ones that are left out become "" so that others can follow."""
        changed = self._candidate.patch(owner.scope).node(owner.index).outputs
        return _padded(list(owner.proto.output if changed is None else changed), count)

    def _set_outputs(self, owner: Node, names: list[str]) -> None:
        self._candidate.patch(owner.scope).node(owner.index).outputs = names


def _outer(exits: Iterable[_Exit]) -> list[str]:
    return [leaving.outer for leaving in exits]


def _padded(names: list[str], count: int) -> list[str]:
    return names + [""] * (count - len(names))


def _no_rows(writer: Writer, leaving: _Exit) -> str:
    return writer.constant(np.zeros((0, leaving.width), dtypes.numpy_dtype(leaving.data_type)))


def _unknown_rows(writer: Writer, leaving: _Exit) -> str:
    """No rows either, but what infers shapes does not see how many."""
    one = writer.constant(np.zeros((1, leaving.width), dtypes.numpy_dtype(leaving.data_type)))
    return writer.operator("Compress", [one, writer.constant(np.zeros(1, np.bool_))], axis=0)


def _declared_outputs(scope: Scope) -> list[ValueInfoProto]:
    """The outputs of a body as the file declares them; one value may be several of them."""
    outline = scope.outline
    fields = [item for item in outline.order if item.number == outline.kind.output]
    return [parse(ValueInfoProto, bytes(outline.buffer[item.start : item.end])) for item in fields]
