"""Finds the guards of a source file and puts a switch on each.

A rule gives up by raising a refusal (`Refused`, `Cannot`, `Unknown`, or one that was caught before), by returning None, False
or nothing, or by going on to the next candidate. What decides that it does is a guard:

- the condition of an `if` that holds nothing but giving up, and each operand of that condition;
- the condition of `return None if ... else ...` and of `return ... if ... else None`, and each operand of it;
- each operand of what a function that answers with a bool returns;
- a refusal that stands elsewhere: behind a loop, in an `else`, where an error is caught;
- a statement that only calls something, and what it calls refuses, itself or through such a statement of its own
  (`refusing`).

A condition `a or b` as a whole is no guard beside `a` and `b`: a test that misses `a` misses both. Tests for None and for a
type that the type checker demands are none either (`narrowing.py`): it is the checker that misses them. Where a guard is off,
an operand of an `or` is never true and one of an `and` always; a refusal is not raised, and a call not made.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.narrowing import Uses, is_narrowing

_PROBE = "tests.mutation.probe"
FOLDERS = ("normfold/affine", "normfold/norm", "normfold/targets")
_REFUSALS = ("Refused", "refused", "Cannot", "Unknown")


@dataclass(frozen=True)
class Guard:
    """One guard: its number, where it stands, and its text."""

    number: int
    path: str
    function: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.function}: {self.text}"


def refusing(texts: Iterable[str]) -> frozenset[str]:
    """Names of the functions that refuse: they make a refusal, or have a statement that only calls one that does.

    `accept` and `accept_forward` of the rows are called through the tables; `parameter` and `read` refuse what is no constant.
    """
    functions = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    direct = {f.name for f in functions if any(isinstance(n, ast.Raise) and _is_refusal(n) for n in ast.walk(f))}
    found = {*direct, "accept", "read", "parameter"} - {"__init__"}
    while True:
        more = (
            {f.name for f in functions if any(_name(called) in found for called in _statements(f))}
            - found
            - {"__init__"}
        )
        if not more:
            return frozenset(found)
        found |= more


def _statements(function: ast.FunctionDef) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node.value


def instrument(source: str, path: str, first: int, refuse: Collection[str]) -> tuple[str, list[Guard]]:
    """The source with a switch on every guard, numbered from `first`; it means the same while no switch is off.

    Args:
        source: the text.
        path: where it stands, for people.
        first: the number of the first guard.
        refuse: names of the functions that refuse.
    """
    tree = ast.parse(source)
    switches = _Switches(path, first, refuse)
    switches.visit(tree)
    if not switches.guards:
        return source, []
    at = sum(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body[:1])
    while isinstance(tree.body[at], ast.ImportFrom) and tree.body[at].module == "__future__":  # type: ignore[attr-defined]
        at += 1
    tree.body.insert(at, ast.parse(f"import {_PROBE}").body[0])
    return ast.unparse(ast.fix_missing_locations(tree)), switches.guards


class _Switches(ast.NodeTransformer):
    def __init__(self, path: str, first: int, refuse: Collection[str]) -> None:
        self.path, self.first, self.refuse = path, first, refuse
        self.guards: list[Guard] = []
        self._functions: list[ast.FunctionDef] = []
        self._uses = Uses(ast.Module([], []))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        before = self._uses
        self._functions.append(node)
        self._uses = Uses(node)
        self.generic_visit(node)
        self._functions.pop()
        self._uses = before
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        if len(node.body) == 1 and _gives_up(node.body[0]):
            node.test = self._condition(node.test, refuses=True)
            node.orelse = [self.visit(part) for part in node.orelse]
            return node
        self.generic_visit(node)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        value = node.value
        if isinstance(value, ast.IfExp) and _is_nothing(value.body):
            value.test = self._condition(value.test, refuses=True)
        elif isinstance(value, ast.IfExp) and _is_nothing(value.orelse):
            value.test = self._condition(value.test, refuses=False)
        elif isinstance(value, ast.BoolOp) and self._functions and _answers(self._functions[-1]):
            self._operands(value)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if not _is_refusal(node):
            return node
        return ast.copy_location(ast.If(_asked("either", self._new(node), ast.Constant(True)), [node], []), node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        called = node.value
        if not isinstance(called, ast.Call) or _name(called) not in self.refuse or _has_own_scope(called):
            return node
        number = self._new(node)
        inner = ast.Lambda(ast.arguments([], [], None, [], [], None, []), called)
        return ast.copy_location(ast.Expr(_asked("call", number, inner)), node)

    def _condition(self, test: ast.expr, *, refuses: bool) -> ast.expr:
        """A condition with switches; `refuses` says what it means that it is true."""
        several = isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or if refuses else ast.And)
        number = None if several or is_narrowing(test, self._uses, refuses=refuses) else self._new(test)
        if isinstance(test, ast.BoolOp):
            self._operands(test)
        return test if number is None else _asked("either" if refuses else "both", number, test)

    def _operands(self, test: ast.BoolOp) -> None:
        refuses = isinstance(test.op, ast.Or)
        test.values = [
            value
            if is_narrowing(value, self._uses, refuses=refuses)
            else _asked("either" if refuses else "both", self._new(value), value)
            for value in test.values
        ]

    def _new(self, node: ast.AST) -> int:
        number = self.first + len(self.guards)
        text = " ".join(ast.unparse(node).split())[:160]
        function = self._functions[-1].name if self._functions else ""
        self.guards.append(Guard(number, self.path, function, getattr(node, "lineno", 0), text))
        return number


def _asked(what: str, number: int, *rest: ast.expr) -> ast.expr:
    called = ast.parse(f"{_PROBE}.{what}", mode="eval").body
    return ast.Call(called, [ast.Constant(number), *rest], [])


def _gives_up(node: ast.stmt) -> bool:
    if isinstance(node, ast.Return):
        return _is_nothing(node.value)
    return isinstance(node, ast.Continue) or (isinstance(node, ast.Raise) and _is_refusal(node))


def _is_nothing(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and (value.value is None or value.value is False))


def _is_refusal(node: ast.Raise) -> bool:
    """Whether a refusal is made, or one that was caught goes on."""
    if isinstance(node.exc, ast.Call):
        return _name(node.exc).endswith(_REFUSALS)
    return isinstance(node.exc, ast.Name | ast.Attribute) and ast.unparse(node.exc).split(".")[-1][0].islower()


def _answers(function: ast.FunctionDef) -> bool:
    return isinstance(function.returns, ast.Name) and function.returns.id == "bool"


def _name(node: ast.Call) -> str:
    called = node.func
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _has_own_scope(node: ast.AST) -> bool:
    """Whether it could not stand inside of a lambda."""
    return any(isinstance(part, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr) for part in ast.walk(node))


def sources(root: Path, only: list[str]) -> Iterator[Path]:
    """The tables of the rules, or those of them that are asked for."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            if not only or any(str(path.relative_to(root)).startswith(prefix) for prefix in only):
                yield path
