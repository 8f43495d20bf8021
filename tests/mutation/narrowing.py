"""Which tests for None or for a type are there for the type checker: without them it refuses the code.

`x is None` in front of giving up narrows `x: T | None` to T, and `isinstance` narrows a union. Where the function reads `x.y`,
`x[i]`, `x()` or `*x`, iterates over x, compares or calculates with it, or returns it and promises more than None, mypy (strict,
part of `.ci/run`) reports that the guard is missing. Where x is only handed on, it may be allowed to be None, and the test
counts as a guard.
"""

from __future__ import annotations

import ast


class Uses:
    """What of a function's names is used in a way that None does not allow."""

    def __init__(self, function: ast.AST) -> None:
        self.names: set[str] = set()
        returns = (
            ast.unparse(function.returns) if isinstance(function, ast.FunctionDef) and function.returns else "None"
        )
        for node in ast.walk(function):
            self.names |= {ast.unparse(part) for part in _demanding(node)}
            if isinstance(node, ast.Return) and node.value is not None and "None" not in returns:
                self.names.add(ast.unparse(node.value))


def is_narrowing(test: ast.expr, uses: Uses, *, refuses: bool) -> bool:
    """Whether a test only narrows a type.

    Args:
        test: the condition, or an operand of it.
        uses: of the function in which it stands.
        refuses: whether the rule gives up where it holds; else where it does not.
    """
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return is_narrowing(test.operand, uses, refuses=not refuses)
    subject: ast.expr
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and _is_none(test.comparators[0]):
        if not isinstance(test.ops[0], ast.Is if refuses else ast.IsNot):
            return False
        subject = test.left
    elif isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "isinstance":
        subject = test.args[0]
    else:
        return False
    # mypy narrows names and attributes, not what a call or a subscript gives.
    return isinstance(subject, ast.Name | ast.Attribute) and ast.unparse(subject) in uses.names


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _demanding(node: ast.AST) -> list[ast.expr]:
    """The expressions that a node needs to be something."""
    if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        return [node.value]
    if isinstance(node, ast.For | ast.comprehension):
        return [node.iter]
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.Compare):
        if isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
            return [node.left, *node.comparators]
        return [node.comparators[0]] if isinstance(node.ops[0], ast.In | ast.NotIn) else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return [node.func]
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
        return [node.value]
    return []
