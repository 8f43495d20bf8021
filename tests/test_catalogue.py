"""The catalogue of codes: complete, documented, and the same everywhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from enum import StrEnum
from importlib import import_module
from pathlib import Path

import pytest

import models
import normfold
from cli import options
from normfold.affine.reasons import REASONS, Refused
from normfold.norm import reasons as norm_reasons
from normfold.surgery.codes import KEY_MEANING, RULES, catalogue, meaning

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "normfold").rglob("*.py"))


def raised() -> set[str]:
    """The keys of all refusals that are written down anywhere."""
    keys = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "Refused"
                and node.args
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    keys.add(str(first.value))
    return keys


def test_codes_have_the_form_that_is_promised() -> None:
    for code, rule in RULES.items():
        assert rule.code == code
        assert re.fullmatch(r"NF[1-4]\d\d", code)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", rule.name)
        assert len(set(rule.keys)) == len(rule.keys)
        assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", key) for key in rule.keys)


def test_every_code_has_a_meaning() -> None:
    for rule in RULES.values():
        assert meaning(rule.code) == rule.page
        for key in rule.keys:
            assert meaning(f"{rule.code}.{key}") == KEY_MEANING[key]
    for unknown in ("NF999", "NF101.nonsense", "NF201.shared", "", "."):
        assert meaning(unknown) is None


def test_every_refusal_in_the_source_is_in_the_catalogue() -> None:
    assert raised() <= {*REASONS, *norm_reasons.REASONS}
    for refused in (Refused, norm_reasons.Refused):
        with pytest.raises(AssertionError):
            refused("nonsense", "no such key")


def test_every_reason_occurs() -> None:
    """A reason that nothing can give is a promise to readers of reports that nobody keeps."""
    text = "\n".join(path.read_text("utf-8") for path in SOURCES if path.name not in ("reasons.py", "codes.py"))
    unused = [key for key in REASONS if f'"{key}"' not in text]
    assert not unused


def test_every_reason_belongs_to_a_rule() -> None:
    assert set(REASONS) <= {key for rule in RULES.values() for key in rule.keys}


@pytest.mark.parametrize("name", sorted(models.TORCH_FREE))
def test_what_the_planner_says_is_in_the_catalogue(name: str) -> None:
    for decision in normfold.explain(models.build(name)):
        assert meaning(decision.code) is not None, decision


def test_what_the_planner_says_about_the_shipped_model() -> None:
    decisions = normfold.explain(ROOT / "models" / "mobilenet_v2_mini.onnx")
    assert [decision.code for decision in decisions] == ["NF101"] * 11


def test_the_page_is_the_committed_one() -> None:
    assert (ROOT / "docs" / "codes.md").read_text("utf-8") == catalogue(), (
        "run: python -m normfold.surgery.codes > docs/codes.md"
    )


def test_the_page_can_be_made_as_it_says() -> None:
    command = [sys.executable, "-m", "normfold.surgery.codes"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == catalogue()


@pytest.mark.parametrize(
    ("mirror", "original"),
    [
        (options.Level, normfold.VerifyLevel),
        (options.LinkPolicy, normfold.Links),
        (options.Policy, normfold.Initializers),
        (options.TargetName, normfold.Target),
    ],
)
def test_the_command_line_mirrors_the_library(mirror: type[StrEnum], original: type[StrEnum]) -> None:
    assert {item.name: item.value for item in mirror} == {item.name: item.value for item in original}


def test_the_command_line_has_the_defaults_of_the_library() -> None:
    import inspect

    from cli.optimize import optimize

    config = normfold.Config()
    parameters = {name: p.default for name, p in inspect.signature(optimize).parameters.items()}
    for option in ("verify", "target", "initializers"):
        assert parameters[option].value == getattr(config, option).value
    for option, field in (("seed",) * 2, ("trials",) * 2, ("strict",) * 2, ("metadata",) * 2, ("timeout", "timeout_s")):
        assert parameters[option] == getattr(config, field)
    assert parameters["all_or_nothing"] == config.all_or_nothing


def test_public_names_exist() -> None:
    for name in normfold.__all__:
        assert getattr(normfold, name) is not None
    with pytest.raises(AttributeError):
        _ = normfold.nonsense  # type: ignore[attr-defined]
    import_module("normfold.verification")
    assert callable(normfold.verify), "no sub-package may take the place of the function"


def test_errors_carry_what_pipelines_branch_on() -> None:
    from normfold import errors

    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NormfoldError)
    ]
    assert len(kinds) == 7
    for kind in kinds:
        error = kind("some.code", "it is wrong", where="here", hint="do this")
        assert str(error) == "here: it is wrong - do this"
        assert error.exit_code == (1 if kind is errors.GateError else 2)
        assert kind.__name__ in (errors.__doc__ or "")


def test_error_codes_are_dotted() -> None:
    codes = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id.endswith(("Error", "Problem"))
            ):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str) and "." in first.value[:12]:
                    codes.add(first.value)
    assert len(codes) > 30
    assert all(re.fullmatch(r"[a-z]+\.[a-z0-9_]+", code) for code in codes), codes
