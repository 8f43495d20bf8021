"""Finds the guards of a source file and puts a switch on each.

A guard is a `raise Refused(...)`, each operand of the condition in front of one, and a statement that only calls something:
in the tables of the affine rules such a call is there to refuse.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROBE = "tests.mutation.probe"
# Statements that only call something and do not refuse: they change a collection or a collector.
_CHANGES = ("add", "append", "appendleft", "clear", "collect", "discard", "extend", "insert", "pop", "remove", "setdefault",
            "update", "sort", "__init__")  # fmt: skip


@dataclass(frozen=True)
class Guard:
    """One guard: its number, where it stands, and its text."""

    number: int
    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def instrument(source: str, path: str, first: int) -> tuple[str, list[Guard]]:
    """The source with a switch on every guard, numbered from `first`; it means the same while no switch is off."""
    tree = ast.parse(source)
    switches = _Switches(path, first)
    switches.visit(tree)
    if not switches.guards:
        return source, []
    at = sum(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body[:1])
    while isinstance(tree.body[at], ast.ImportFrom) and tree.body[at].module == "__future__":  # type: ignore[attr-defined]
        at += 1
    tree.body.insert(at, ast.parse(f"import {_PROBE}").body[0])
    return ast.unparse(ast.fix_missing_locations(tree)), switches.guards


class _Switches(ast.NodeTransformer):
    def __init__(self, path: str, first: int) -> None:
        self.path, self.first = path, first
        self.guards: list[Guard] = []

    def _new(self, node: ast.AST) -> int:
        number = self.first + len(self.guards)
        text = " ".join(ast.unparse(node).split())[:160]
        self.guards.append(Guard(number, self.path, getattr(node, "lineno", 0), text))
        return number

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if not _is_refusal(node):
            return node
        number = self._new(node)
        return ast.copy_location(ast.If(_asked("stands", number), [node], []), node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        called = node.value
        if not isinstance(called, ast.Call) or _name(called) in _CHANGES or _has_own_scope(called):
            return node
        number = self._new(node)
        inner = ast.Lambda(ast.arguments([], [], None, [], [], None, []), called)
        return ast.copy_location(ast.Expr(_asked("call", number, inner)), node)

    def visit_If(self, node: ast.If) -> ast.AST:
        refuses = any(isinstance(part, ast.Raise) and _is_refusal(part) for part in node.body)
        if refuses and isinstance(node.test, ast.BoolOp):
            how = "either" if isinstance(node.test.op, ast.Or) else "both"
            node.test.values = [_asked(how, self._new(value), value) for value in node.test.values]
        self.generic_visit(node)
        return node


def _asked(what: str, number: int, *rest: ast.expr) -> ast.Call:
    called = ast.parse(f"{_PROBE}.{what}", mode="eval").body
    return ast.Call(called, [ast.Constant(number), *rest], [])


def _is_refusal(node: ast.Raise) -> bool:
    return isinstance(node.exc, ast.Call) and _name(node.exc).endswith(("Refused", "refused"))


def _name(node: ast.Call) -> str:
    called = node.func
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _has_own_scope(node: ast.AST) -> bool:
    """Whether it could not stand inside of a lambda."""
    return any(isinstance(part, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr) for part in ast.walk(node))


def sources(root: Path, only: list[str]) -> Iterator[Path]:
    """The tables of the rules, or those of them that are asked for."""
    for folder in ("normfold/affine", "normfold/norm"):
        for path in sorted((root / folder).rglob("*.py")):
            if not only or any(str(path.relative_to(root)).startswith(prefix) for prefix in only):
                yield path
