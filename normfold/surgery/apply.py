"""Model + Plan -> Candidate. The only place that decides what a changed graph looks like.

Names: where a node is bypassed, the operator before it takes over its output name, so that readers and graph outputs stay
as they are; only where others read the old name too are the readers renamed. A new tensor takes the name of the one that
it replaces if nobody reads that any more, and a fresh one otherwise; nothing is ever edited in place.
"""

from __future__ import annotations

from onnx import AttributeProto, NodeProto, helper

from normfold.affine.absorbers import changes
from normfold.affine.change import Change, NewNode, NewParameter
from normfold.affine.draft import UNIT_OUT
from normfold.affine.unit_channel import widened_values
from normfold.model.graph import Node, Use, Value
from normfold.model.load import FIRST_OVERRIDABLE_IR, Model
from normfold.model.patch import Candidate
from normfold.model.tensors import NewTensor
from normfold.surgery.plan import Plan
from normfold.surgery.retire import Retirement


def apply(model: Model, plan: Plan, metadata: dict[str, str]) -> Candidate:
    """The candidate that a plan describes. Weights are not computed here but when they are read.

    Args:
        model: the original, not changed.
        plan: made for this very model.
        metadata: `metadata_props` to set if anything changes at all.
    """
    return _Surgeon(model, plan, metadata).run()


class _Surgeon:
    def __init__(self, model: Model, plan: Plan, metadata: dict[str, str]) -> None:
        self.model = model
        self.plan = plan
        self.draft = plan.draft
        self.candidate = Candidate(model, {}, {} if plan.is_empty else metadata)
        self.changes = changes(plan.draft, plan.slots)
        self.owners = {id(change.node): change.owner for change in self.changes if change.owner is not None}
        self.gone = {id(node) for node, _ in plan.draft.bypassed.values()} | set(plan.draft.dropped)
        self.dead = Retirement(model, plan.draft, self.changes)
        self.taken: set[str] | None = None
        self.made: dict[tuple[object, ...], str] = {}

    def run(self) -> Candidate:
        if self.plan.is_empty:
            return self.candidate
        if self.plan.frozen:
            self.candidate.patch(self.model.graph).dropped_inputs |= set(self.plan.frozen)
        for node, _ in self.draft.bypassed.values():
            self._drop(node)
        for node in self.draft.dropped.values():
            self._drop(node)
            self.candidate.patch(node.scope).dropped_info |= {value.name for value in node.outputs if value is not None}
        self._retire()
        self._forget_shapes()
        for change in self.changes:
            self._carry_out(change)
        self._rename()
        for change in self.changes:
            if change.before is not None:  # after renaming, because it reads what the node would read
                self._insert(change.node, change.before)
        return self.candidate

    # --- what is no longer needed ---

    def _drop(self, node: Node) -> None:
        self.candidate.patch(node.scope).dropped_nodes.add(node.index)

    def _retire(self) -> None:
        """Drop the constants, and the operators that make them, whose last reader is gone."""
        for node in self.dead.nodes.values():
            self._drop(node)
        for value in self.dead.values.values():
            patch = self.candidate.patch(value.scope)
            index = self._initializer_index(value)
            if value.producer is None and index is None:
                continue
            patch.dropped_info.add(value.name)
            if value.producer is None and index is not None:
                patch.dropped_initializers.add(index)
                patch.dropped_inputs.add(value.name)

    def _forget_shapes(self) -> None:
        """Tensors that got one more channel are not what was declared."""
        for edit in self.plan.edits:
            makers = [slot.node for slot in edit.slots if slot.operand == UNIT_OUT]
            for value in widened_values([*makers, *edit.crossed] if makers else ()):
                self.candidate.patch(value.scope).dropped_info.add(value.name)

    def _initializer_index(self, value: Value) -> int | None:
        if not hasattr(self, "_positions"):
            self._positions = {
                id(tensor): i for scope in self.model.scopes() for i, tensor in enumerate(scope.outline.tensors)
            }
        return self._positions.get(id(value.tensor)) if value.tensor is not None else None

    # --- changed nodes ---

    def _carry_out(self, change: Change) -> None:
        node = change.node
        patch = self.candidate.patch(node.scope).node(node.index)
        if change.op_type is not None:
            patch.op_type = change.op_type
        for name, value in change.attributes.items():
            patch.attributes[name] = _attribute(name, value)
        if change.inputs:
            names = patch.inputs if patch.inputs is not None else list(node.proto.input)
            names += [""] * (max(change.inputs) + 1 - len(names))
            for slot, parameter in change.inputs.items():
                names[slot] = self._tensor(node, node.input(slot), parameter)
            patch.inputs = names
        if change.add is not None:
            self._append_add(node, change.add)

    def _tensor(self, node: Node, old: Value | None, parameter: NewParameter) -> str:
        """The name of the new tensor; equal tensors made of one old one are shared as that was."""
        key = (id(old) if old is not None else id(parameter), id(node.scope), *_recipe(parameter))
        if key in self.made and old is not None:
            return self.made[key]
        reuse = self._may_take_over(node, old, parameter)
        name = old.name if reuse and old is not None else self._fresh(parameter.hint)
        if reuse and old is not None:
            self.made["name", id(old)] = name
        self._place(node, old if reuse else None, _new_tensor(name, parameter))
        self.made[key] = name
        return name

    def _may_take_over(self, node: Node, old: Value | None, parameter: NewParameter) -> bool:
        """Whether the new tensor may have the name of the old one: it is dead, ours, and not declared with another shape."""
        if old is None or old not in self.dead or old.scope is not node.scope or ("name", id(old)) in self.made:
            return False
        if self.dead.is_measured(old) and not self.dead.has_same_form(old, parameter):
            return False
        declared = old.is_input and old.name not in self.model.frozen
        return not declared or old.tensor is None or old.tensor.dims == parameter.dims

    def _place(self, node: Node, old: Value | None, tensor: NewTensor) -> None:
        """Put a tensor where the format allows: over the old one, among the initializers, or into a Constant node."""
        patch = self.candidate.patch(node.scope)
        self.candidate.owners[id(tensor)] = self.owners.get(id(node), node)
        index = None if old is None else self._initializer_index(old)
        if index is not None:
            patch.dropped_initializers.discard(index)
            patch.replaced[index] = tensor
            if tensor.name not in self.model.frozen:
                patch.dropped_inputs.discard(tensor.name)
            if old is not None and old.tensor is not None and old.tensor.dims == tensor.dims:
                patch.dropped_info.discard(tensor.name)
        elif node.scope.is_function or self._initializers_are_inputs():
            patch.constants.setdefault(node.index, []).append(tensor)
        else:
            patch.added.append(tensor)

    def _initializers_are_inputs(self) -> bool:
        """Before IR 4 every initializer must be a graph input; a new one would change the interface."""
        return self.model.ir_version < FIRST_OVERRIDABLE_IR

    def _append_add(self, node: Node, bias: NewParameter) -> None:
        patch = self.candidate.patch(node.scope)
        inner = self._fresh(f"{node.output.name}.unbiased")
        name = self._tensor(node, None, bias)
        patch.node(node.index).outputs = [inner, *list(node.proto.output)[1:]]
        add = NodeProto(
            op_type="Add", name=self._fresh(f"{node.label}.bias_add"), input=[inner, name], output=[node.output.name]
        )
        patch.after.setdefault(node.index, []).append(add)

    def _insert(self, node: Node, new: NewNode) -> None:
        """Put a node in front of the data input of another."""
        patch = self.candidate.patch(node.scope)
        names = patch.node(node.index).inputs or list(node.proto.input)
        output = self._fresh(f"{node.label}.{new.role}")
        inputs = [names[0], *("" for _ in range(max(new.inputs, default=0)))]
        for slot, parameter in new.inputs.items():
            inputs[slot] = self._tensor(node, None, parameter)
        attributes = [helper.make_attribute(name, value) for name, value in new.attributes.items()]
        inserted = NodeProto(
            op_type=new.op_type, name=self._fresh(output), input=inputs, output=[output], attribute=attributes
        )
        patch.before.setdefault(node.index, []).append(inserted)
        patch.node(node.index).inputs = [output, *names[1:]]

    # --- names ---

    def _fresh(self, hint: str) -> str:
        if self.taken is None:
            self.taken = {name for scope in self.model.scopes() for name in scope.values}
            self.taken |= {node.proto.name for scope in self.model.scopes() for node in scope.nodes}
        name, count = hint, 0
        while name in self.taken or not name:
            count += 1
            name = f"{hint}_{count}"
        self.taken.add(name)
        return name

    def _rename(self) -> None:
        """Give every value that survived a bypass one name, and carry it to producer and readers."""
        members: dict[int, list[Value]] = {}
        roots: dict[int, Value] = {}
        for node, _ in self.draft.bypassed.values():
            root = self.draft.root(node.output)
            roots[id(root)] = root
            members.setdefault(id(root), []).append(node.output)
        for key, root in roots.items():
            final = self._final_name(root, members[key])
            for value in (root, *members[key]):
                if value.name != final:
                    self._rename_readers(value, final)
                    self.candidate.patch(value.scope).dropped_info.add(value.name)
            if root.name != final and root.producer is not None:
                self._rename_output(root.producer, root, final)

    def _final_name(self, root: Value, members: list[Value]) -> str:
        output = self.draft.output_of(root)
        if output is not None:
            return output.name
        readers = self._live_readers(root)
        if root.producer is None or readers or root.scope is not members[0].scope:
            return root.name
        return max(members, key=lambda value: len(self._live_readers(value))).name

    def _live_readers(self, value: Value) -> list[Use]:
        return [use for use in value.uses if id(use.node) not in self.gone]

    def _rename_readers(self, value: Value, name: str) -> None:
        for use in self._live_readers(value):
            patch = self.candidate.patch(use.node.scope).node(use.node.index)
            names = patch.inputs if patch.inputs is not None else list(use.node.proto.input)
            names[use.slot] = name
            patch.inputs = names

    def _rename_output(self, producer: Node, root: Value, name: str) -> None:
        scope_patch = self.candidate.patch(producer.scope)
        added = [node for node in scope_patch.after.get(producer.index, ()) if root.name in node.output]
        for node in added:
            node.output[0] = name
        if not added:
            patch = scope_patch.node(producer.index)
            names = patch.outputs if patch.outputs is not None else list(producer.proto.output)
            names[root.output_slot] = name
            patch.outputs = names


def _attribute(name: str, value: object) -> AttributeProto | None:
    return None if value is None else helper.make_attribute(name, value)


def _recipe(parameter: NewParameter) -> tuple[object, ...]:
    parts = (parameter.factor, parameter.offset)
    return (
        id(parameter.base),
        parameter.data_type,
        parameter.dims,
        *(None if p is None else (p.shape, p.tobytes()) for p in parts),
    )


def _new_tensor(name: str, p: NewParameter) -> NewTensor:
    return NewTensor(name, p.base, p.data_type, p.dims, p.factor, p.offset, p.negligible)
