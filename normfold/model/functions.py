"""Model-local functions: who calls which, how large a call becomes, and what may be put in its place.

A chain of functions that call each other twice doubles with every step, so sizes are added up before anything is expanded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import AttributeProto

from normfold.errors import InputError
from normfold.model.caps import DEEPEST, DEFAULT_CAPS, Caps
from normfold.model.graph import STANDARD, Node, Scope
from normfold.model.outline import parse
from normfold.model.wire import Field

_NAME, _ATTRIBUTE_DEFAULT, _DOMAIN, _OVERLOAD = 1, 11, 10, 13

Signature = tuple[str, str, str]  # domain, name, overload


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A model-local function.

    Args:
        signature: domain, name and overload, by which it is called.
        scope: its body.
        nodes, bytes: of the body, with everything that it calls in its place.
        levels: how deep calls in it are nested, itself included.
        depth: of the subgraphs in it.
    """

    signature: Signature
    scope: Scope
    nodes: int
    bytes: int
    levels: int
    depth: int

    @property
    def name(self) -> str:
        """Its name, and its overload if it has one."""
        return ":".join(part for part in self.signature[1:] if part)

    def defaults(self) -> dict[str, AttributeProto]:
        """The attributes that a call may leave out."""
        outline = self.scope.outline
        items = [item for item in outline.order if item.number == _ATTRIBUTE_DEFAULT]
        parsed = [parse(AttributeProto, bytes(outline.buffer[item.start : item.end])) for item in items]
        return {attribute.name: attribute for attribute in parsed}


class Functions:
    """The functions of a model by signature; one that is defined twice, or shadows a standard operator, is none.

    Raises:
        InputError: `function.recursion`, `function.size`.
    """

    def __init__(self, bodies: Sequence[tuple[Field, Scope]], caps: Caps = DEFAULT_CAPS) -> None:
        self._caps = caps
        found: dict[Signature, list[Scope]] = {}
        for _, scope in bodies:
            found.setdefault(_signature(scope), []).append(scope)
        self._scopes = {key: scopes[0] for key, scopes in found.items() if len(scopes) == 1 and key[0] not in STANDARD}
        self._known: dict[Signature, Function] = {}
        # What does not depend on the call, because a large function may be called very often.
        self._returned: dict[Signature, Collection[str]] = {}
        self._versions: dict[tuple[object, ...], tuple[str, str] | None] = {}
        for key in self._scopes:
            self._measure(key)

    def of(self, node: Node) -> Function | None:
        """The function that a node calls, None if it is an operator."""
        return self._known.get(_called(node))

    def calls(self, scope: Scope) -> Iterator[tuple[Node, Function]]:
        """The calls in a scope, those inside of its subgraphs left out."""
        for node in scope.nodes:
            function = self.of(node)
            if function is not None:
                yield node, function

    def reachable(self, scopes: Iterable[Scope]) -> set[int]:
        """Identities of the bodies that are called from some scopes, directly or not."""
        pending, seen = list(scopes), set[int]()
        while pending:
            for inner in pending.pop().walk():
                called = [function.scope for _, function in self.calls(inner) if id(function.scope) not in seen]
                seen |= {id(scope) for scope in called}
                pending += called
        return seen

    def callers(self, bodies: Collection[int]) -> set[int]:
        """Identities of the bodies from which some bodies, given by their identities, are called, directly or not."""
        by_called: dict[int, list[int]] = {}
        for function in self._known.values():
            for part in function.scope.walk():
                for called in {id(inner.scope) for _, inner in self.calls(part)}:
                    by_called.setdefault(called, []).append(id(function.scope))
        pending, seen = list(bodies), set[int]()
        while pending:
            new = [caller for caller in by_called.get(pending.pop(), ()) if caller not in seen]
            seen |= set(new)
            pending += new
        return seen

    def returned_inputs(self, function: Function) -> Collection[str]:
        """Names of the inputs of a function that a branch in it returns as they are."""
        if function.signature not in self._returned:
            inner = [value for part in function.scope.walk() if part is not function.scope for value in part.outputs]
            own = [value for value in inner if value.scope is function.scope and value.producer is None]
            self._returned[function.signature] = {value.name for value in own}
        return self._returned[function.signature]

    def other_version(self, function: Function, opset: dict[str, int]) -> tuple[str, str] | None:
        """The first operator of a body that means something else under an opset, as key and message."""
        key = (function.signature, *sorted(opset.items()))
        if key not in self._versions:
            self._versions[key] = _other_version(self, function, opset)
        return self._versions[key]

    def _measure(self, start: Signature) -> None:
        """Add up a function and all that it calls, those first."""
        pending, open_ = [start], set[Signature]()
        while pending:
            key = pending[-1]
            if key in self._known:
                pending.pop()
                continue
            called = [_called(node) for scope in self._scopes[key].walk() for node in scope.nodes]
            called = [inner for inner in called if inner in self._scopes]
            missing = [inner for inner in called if inner not in self._known]
            if missing and (key in open_ or key in missing):
                raise InputError("function.recursion", f"the function {key[1]!r} calls itself", hint="export it again")
            open_.add(key)
            if missing:
                pending += dict.fromkeys(missing)
            else:
                self._known[key] = self._measured(key, called)

    def _measured(self, key: Signature, called: Sequence[Signature]) -> Function:
        scope = self._scopes[key]
        inner = [self._known[item] for item in called]
        nodes = sum(len(part.nodes) for part in scope.walk()) + sum(function.nodes for function in inner)
        # Some runtimes take exponential time to find out that this is too much.
        if nodes > self._caps.expanded_nodes:
            raise self._caps.exceeded(
                "expanded_nodes", f"the nodes that the function {key[1]!r} stands for are", "function.size"
            )
        size = scope.outline.end - scope.outline.start + sum(function.bytes for function in inner)
        levels = 1 + max((function.levels for function in inner), default=0)
        return Function(key, scope, nodes, size, levels, max(part.depth for part in scope.walk()))


def _signature(scope: Scope) -> Signature:
    outline = scope.outline
    texts = {item.number: outline.buffer[item.start : item.end] for item in outline.order}
    domain, name, overload = (str(texts.get(number, b""), "utf-8") for number in (_DOMAIN, _NAME, _OVERLOAD))
    return domain, name, overload


def _called(node: Node) -> Signature:
    proto = node.proto
    return proto.domain, proto.op_type, proto.overload


# --- what may be put in the place of a call ---


def obstacle(functions: Functions, node: Node, function: Function, opset: dict[str, int]) -> tuple[str, str] | None:
    """Why a body cannot be put in the place of a call, as key and message; None if it can.

    Args:
        functions: of the model.
        node: the call.
        function: what it calls.
        opset: of the model, under which the body would be read.
    """
    scope = function.scope
    if node.scope.depth + function.depth > DEEPEST:
        return "inline-size", f"subgraphs would be nested more than {DEEPEST} deep"
    if len(node.inputs) > len(scope.inputs) or len(node.outputs) > len(scope.outputs):
        return "ill-formed", f"it has more inputs or outputs than {function.name!r}"
    given = {value.name for value, actual in zip(scope.inputs, node.inputs, strict=False) if actual is not None}
    for value, target in zip(scope.outputs, node.outputs, strict=False):
        if target is not None and value.producer is None and value.name not in given:
            return "ill-formed", f"the output {target.name!r} of the call is an input that it leaves out"
    if any(name not in given for name in functions.returned_inputs(function)):
        return "ill-formed", "a branch returns an input that it leaves out"
    if any(_cannot_be_bound(attribute) for attribute in node.proto.attribute):
        return "graph-attribute", "it passes a graph, which reads values of the caller"
    return functions.other_version(function, opset)


def _cannot_be_bound(attribute: AttributeProto) -> bool:
    graphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    return attribute.type in graphs or attribute.HasField("g") or bool(attribute.graphs or attribute.ref_attr_name)


def _other_version(functions: Functions, function: Function, opset: dict[str, int]) -> tuple[str, str] | None:
    """The first operator of a body that means something else under the opsets of the model."""
    own = function.scope.opset
    for scope in function.scope.walk():
        for node in scope.nodes:
            mine, wanted = opset.get(node.domain), own.get(node.domain)
            if mine is not None and (mine == wanted or functions.of(node) is not None):
                continue
            if (
                mine is None
                or wanted is None
                or _since(node, mine) is None
                or _since(node, mine) != _since(node, wanted)
            ):
                theirs = "no version" if mine is None else f"version {mine}"
                where = f"{node.domain or 'ai.onnx'} {wanted}"
                return "opset", f"{node.op_type} in {function.name!r} is that of {where}, the model imports {theirs}"
    return None


def _since(node: Node, version: int) -> int | None:
    return _since_version(node.op_type, node.domain, version)


@lru_cache(maxsize=4096)
def _since_version(op_type: str, domain: str, version: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(op_type, version, domain).since_version)
    except onnx.defs.SchemaError:
        return None
