"""`python -m tests.crash.together`: several runs at once into one directory, and runs under limits of the system.

Whatever they do to each other, what lies at a destination is a whole pair that one of them wrote, and nothing else is left.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import normfold
from normfold.errors import NormfoldError
from tests.crash.__main__ import _CONFIG, Pair, forked, model, pair

_RUNS = 6
_SOURCES = 3
Body = Callable[[], None]


class Ground:
    """Sources that differ, what becomes of each alone, and a destination."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.sources = [model(folder / f"source{i}", 1.0 + i) for i in range(_SOURCES)]
        self.alone = [self._alone(folder / f"alone{i}", source) for i, source in enumerate(self.sources)]
        assert len({str(found) for found in self.alone}) == _SOURCES

    def _alone(self, folder: Path, source: Path) -> Pair:
        folder.mkdir()
        normfold.optimize(source, folder / "o.onnx", config=_CONFIG)
        return pair(folder / "o.onnx")

    def fresh(self) -> Path:
        """An empty destination."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        return self.out

    def writing(self, index: int, target: Path) -> Body:
        """A run; the sources take turns."""
        return lambda: _discard(normfold.optimize(self.sources[index % _SOURCES], target, config=_CONFIG))


def _discard(_: object) -> None:
    """A body returns nothing."""


def statuses(bodies: Sequence[Body]) -> list[int]:
    """How processes ended that ran at the same time: 0, 3 with an error of ours on stderr, or minus a signal."""
    children = [forked(body) for body in bodies]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _data(found: Pair) -> list[str]:
    """The contents of the data files of a pair."""
    return [content for name, content in found.items() if name.endswith(".data")]


def one_output(ground: Ground) -> Iterator[str]:
    """All write to the same place: one after the other, and one of them is the last."""
    out = ground.fresh() / "o.onnx"
    found = statuses([ground.writing(i, out) for i in range(_RUNS)])
    if any(found):
        yield f"one output: ended with {found}"
    if pair(out) not in ground.alone:
        yield "one output: what lies there is none of the results"
    left = {item.name for item in out.parent.iterdir()} - pair(out).keys() - {"o.normstats.npz"}
    if left:
        yield f"one output: left {sorted(left)}"


def many_outputs(ground: Ground) -> Iterator[str]:
    """All write into one directory, under names of their own."""
    folder = ground.fresh()
    found = statuses([ground.writing(i, folder / f"o{i}.onnx") for i in range(_RUNS)])
    if any(found):
        yield f"many outputs: ended with {found}"
    expected: set[str] = set()
    for i in range(_RUNS):
        got = pair(folder / f"o{i}.onnx")
        if _data(got) != _data(ground.alone[i % _SOURCES]):
            yield f"many outputs: {i} has the data of another"
        expected |= {*got, f"o{i}.normstats.npz"}
    left = {item.name for item in folder.iterdir()} ^ expected
    if left:
        yield f"many outputs: {sorted(left)} are too many or too few"


def in_place(ground: Ground) -> Iterator[str]:
    """All change the same model in its place: what another one changed meanwhile is refused, or there is nothing to do."""
    folder = ground.fresh()
    shutil.copytree(ground.sources[0].parent, folder, dirs_exist_ok=True)
    path = folder / "in.onnx"

    def run() -> None:
        try:
            normfold.optimize(path, path, config=_CONFIG, in_place=True)
        except NormfoldError as error:
            if error.code not in ("input.changed", "extdata.changed"):
                raise

    found = statuses([run] * _RUNS)
    if any(found):
        yield f"in place: ended with {found}"
    if _data(pair(path)) != _data(ground.alone[0]):
        yield "in place: the data are not those of the result"
    if any(item.name.startswith(".normfold") for item in folder.iterdir()):
        yield "in place: a staging directory is left"


def limited(ground: Ground) -> Iterator[str]:
    """Under limits of the system: refused with the old pair in place, or done."""
    for name, values in (("FSIZE", (0, 1 << 10, 1 << 18, 1 << 22)), ("NOFILE", (8, 10, 12, 14, 16, 24))):
        for value in values:
            out = ground.fresh() / "o.onnx"
            normfold.optimize(ground.sources[0], out, config=_CONFIG)
            (found,) = statuses([_under(getattr(resource, f"RLIMIT_{name}"), value, ground.writing(1, out))])
            now = pair(out)
            if found not in (0, 4) or now not in (ground.alone[0], ground.alone[1]):
                yield f"{name} of {value}: ended with {found}, and what lies there is {now}"
            if (found == 0) is not (now == ground.alone[1]):
                yield f"{name} of {value}: ended with {found}, and yet"
            left = {item.name for item in out.parent.iterdir()} - now.keys() - {"o.normstats.npz"}
            if left:
                yield f"{name} of {value}: left {sorted(left)}"


def _under(which: int, value: int, body: Body) -> Body:
    def limited_body() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it from the start
        resource.setrlimit(which, (value, resource.getrlimit(which)[1]))
        try:
            body()
        except NormfoldError:
            os._exit(4)

    return limited_body


def main() -> int:
    """Print what was wrong; 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.together", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dir", type=Path, help="where, for another file system")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        ground = Ground(Path(name))
        problems = list(limited(ground))
        for _ in range(options.rounds):
            problems += [*one_output(ground), *many_outputs(ground), *in_place(ground)]
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{options.rounds} rounds, {len(problems)} problems\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
