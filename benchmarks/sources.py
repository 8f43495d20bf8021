"""Where the models come from: a corpus of files, the `models` registry, and the generated ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import onnx

from benchmarks.generate.small import BUILDERS as GENERATED

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "real"
Builder = Callable[[int], onnx.ModelProto]


@dataclass(frozen=True)
class Source:
    """A named model file; `group` is corpus, models or generated."""

    group: str
    name: str
    path: Path


def sources(work: Path, corpus: Path = CORPUS, patterns: tuple[str, ...] = ("*",)) -> Iterator[Source]:
    """All models whose group/name matches one of `patterns`; built ones are written below `work`."""

    def wanted(group: str, name: str) -> bool:
        return any(fnmatch(f"{group}/{name}", p) or fnmatch(name, p) for p in patterns)

    for path in sorted(corpus.rglob("*.onnx")):
        if wanted("corpus", path.stem):
            yield Source("corpus", path.stem, path)
    for group, builders in (("models", registry()), ("generated", GENERATED)):
        for name, builder in builders.items():
            if wanted(group, name) and (path := _build(work / group / f"{name}.onnx", builder)):
                yield Source(group, name, path)


def registry() -> Mapping[str, Builder]:
    """The builders of the `models` package; none where it cannot be imported."""
    try:
        package = importlib.import_module("models")
        builders: Mapping[str, Builder] = package.BUILDERS
    except (ImportError, AttributeError) as why:
        print(f"models: {why}; going on without", file=sys.stderr)
        return {}
    return builders


def _build(path: Path, builder: Builder) -> Path | None:
    try:
        model = builder(0)
    except Exception as why:
        print(f"{path.stem}: cannot be built ({type(why).__name__}: {why})", file=sys.stderr)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
