"""Imports only go down, heavy libraries are loaded by the one module that needs them, and only when it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom. A module may import from its own layer and from those before it.
LAYERS = (
    ("errors", "refusal", "_version", "documents"),
    ("model",),
    ("affine", "norm"),
    ("targets",),
    ("surgery",),
    ("verification",),
    ("statistics",),
    ("report",),
    (
        "gate",
        "destination",
        "config",
        "rounds",
        "pipeline",
        "inspection",
        "doctor",
        "checking",
        "recalibration",
        "undoing",
        "collecting",
    ),
)
HEAVY = ("onnx", "numpy", "torch", "onnxruntime", "onnx_graphsurgeon", "ml_dtypes", "google.protobuf")


MAIN = """
import sys
sys.argv = "normfold {}".split()
from cli.app import main
try: main()
except SystemExit: pass
"""


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _package(path: Path) -> list[str]:
    """The dotted name of the package that a file lies in."""
    return list(path.relative_to(ROOT).parent.parts)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Everything that a file imports, at any level, absolute, with the line."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            package = _package(path)
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node.lineno
            for alias in node.names:
                yield f"{module}.{alias.name}", node.lineno


def layer(module: str) -> int:
    part = module.split(".")[1]
    return next(index for index, names in enumerate(LAYERS) if part in names)


def _layer_of_file(path: Path) -> int | None:
    parts = path.relative_to(ROOT / "normfold").with_suffix("").parts
    return None if parts == ("__init__",) else layer(f"normfold.{parts[0]}")


def test_every_module_has_a_layer() -> None:
    top = {path.relative_to(ROOT / "normfold").with_suffix("").parts[0] for path in sources("normfold")} - {"__init__"}
    assert top == {name for names in LAYERS for name in names}


@pytest.mark.parametrize("path", sources("normfold"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    mine = _layer_of_file(path)
    for module, line in imports(path):
        if not module.startswith("normfold.") or mine is None:
            continue
        part = module.split(".")[1]
        known = any(part in names for names in LAYERS)
        assert known or part.startswith("__"), f"{path}:{line} imports {module} from the top of the package"
        assert not known or layer(module) <= mine, f"{path}:{line} imports {module}, which is above it"


def test_the_library_does_not_know_its_users() -> None:
    outside = ("cli", "normfold_cli", "models", "tests", "benchmarks", "typer", "rich")
    wrong = [(path, m) for path in sources("normfold") for m, _ in imports(path) if m.split(".")[0] in outside]
    assert not wrong


def test_the_command_line_uses_the_library_and_nothing_below() -> None:
    wrong = [
        (path, m)
        for path in sources("cli")
        for m, _ in imports(path)
        if m.split(".")[0] in ("models", "tests", "onnx", "onnxruntime")
    ]
    assert not wrong


def importers(library: str, *folders: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in sources(*folders)
        for module, _ in imports(path)
        if module == library or module.startswith(f"{library}.")
    }


def test_one_module_imports_graphsurgeon() -> None:
    assert importers("onnx_graphsurgeon", "normfold", "cli") == {"normfold/model/extract.py"}


@pytest.mark.parametrize(
    ("library", "path"),
    [("torch", "normfold/statistics/checkpoint/torch_file.py"), ("ray", "normfold/collecting.py")],
)
def test_one_function_imports_it_when_it_is_asked_for(library: str, path: str) -> None:
    assert importers(library, "normfold", "cli") == {path}
    top = [node for node in _tree(ROOT / path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert library not in {alias.name for node in top for alias in node.names}


def test_the_runtime_is_loaded_in_the_child_process_only() -> None:
    """jitter.py is read by the worker: it runs in the child too; probe.py is a script."""
    assert importers("onnxruntime", "normfold", "cli") <= {
        "normfold/verification/worker.py",
        "normfold/verification/jitter.py",
        "normfold/verification/probe.py",
    }
    for name in ("worker.py", "jitter.py", "probe.py"):
        path = ROOT / "normfold/verification" / name
        top = [node for node in _tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert "onnxruntime" not in ast.dump(ast.Module(top, [])), f"{name} imports the runtime before it is asked for"


def test_only_the_worker_uses_what_loads_the_runtime() -> None:
    children = ("worker", "tasks", "probe")
    users = {user for name in children for user in importers(f"normfold.verification.{name}", "normfold", "cli")}
    users -= {"normfold/verification/worker.py"}  # the worker reads the tasks
    assert not users, "the worker is started as a process, never imported"


# Of onnx, what is native code that walks a whole model, or evaluates one.
UNSAFE = ("checker", "shape_inference", "inliner", "reference", "parser", "printer", "version_converter", "compose")


def _uses_of_unsafe(path: Path) -> set[str]:
    dotted = {
        node.attr
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "onnx"
    }
    imported = {
        part
        for node in ast.walk(_tree(path))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for full in (
            [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
        if full.startswith("onnx.")
        for part in [full.split(".")[1]]
    }
    return (dotted | imported) & set(UNSAFE)


def test_native_code_of_onnx_sees_models_in_the_child_process_only() -> None:
    found = {path.name: uses for path in sources("normfold", "cli") if (uses := _uses_of_unsafe(path))}
    assert found == {
        "tasks.py": {"checker", "shape_inference", "inliner", "reference"},
        "oracle_norms.py": {"reference"},  # read by tasks.py: operators for its evaluator
    }


def test_no_recursion_limit_is_moved() -> None:
    wrong = [path for path in sources("normfold", "cli") if "setrecursionlimit" in path.read_text("utf-8")]
    assert not wrong


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "program",
    [
        "import normfold",
        "import normfold; normfold.__version__; dir(normfold)",
        MAIN.format("--help"),
        MAIN.format("optimize --help"),
        MAIN.format("--version"),
    ],
    ids=["import", "attributes", "help", "command-help", "version"],
)
def test_what_starts_first_is_light(program: str) -> None:
    code = f"{program}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_the_command_line_imports_without_the_library_s_dependencies() -> None:
    """Help works in an environment where nothing heavy is installed at all."""
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('onnx', 'numpy', 'onnxruntime', 'torch', 'ml_dtypes'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.argv = ['normfold', 'optimize', '--help']\n"
        "from cli.app import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in done.stdout
