"""`python -m tests.crash --count 1000`: `kill -9` at every step of a run, and at random moments.

Each time a pair of model and data lies at the destination and a run that would replace it is killed. What lies there then must
be the old pair or the new one, whole; the next run must succeed, leave the new pair, and sweep what the dead one left.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import normfold
from normfold import Config

_CALLS = (
    "open", "close", "write", "pwrite", "copy_file_range", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "stat",
    "lstat", "fstat", "scandir", "dup", "link", "posix_fadvise",
)  # fmt: skip
_CONFIG = Config(verify="off")
Pair = dict[str, str]


def model(folder: Path, scale: float) -> Path:
    """Conv, norm and a weight that stays, with external data; `scale` tells one from another."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(64, 64, 3, 3)) * scale, "k": rng.normal(size=(300, 300))}
    values |= {name: rng.uniform(0.5, 1.5, 64) for name in ("g", "b", "m", "v")}
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("MatMul", ["n", "k"], ["y"]),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64, "h", 300]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    return folder / "in.onnx"


def pair(out: Path) -> Pair:
    """The model and the data that it names, by content; nothing if there is no model."""
    if not out.exists():
        return {}
    loaded = onnx.load(out, load_external_data=False)
    names = {entry.value for t in loaded.graph.initializer for entry in t.external_data if entry.key == "location"}
    return {name: hashlib.sha256((out.parent / name).read_bytes()).hexdigest() for name in {out.name, *names}}


class Ground:
    """A destination with an old pair, and the two pairs that may ever be seen there."""

    def __init__(self, folder: Path) -> None:
        self.source, self.first = model(folder / "new", 1.0), model(folder / "old", 2.0)
        self.template, self.work = folder / "template", folder / "work"
        self.template.mkdir()
        self.out = self.work / "out.onnx"
        normfold.optimize(self.first, self.template / "out.onnx", config=_CONFIG)
        self.old = pair(self.template / "out.onnx")
        self.reset()
        start = time.perf_counter()
        self.run()
        self.seconds = time.perf_counter() - start
        self.new = pair(self.out)
        assert len(self.old) == len(self.new) == 2
        assert self.old != self.new

    def reset(self) -> None:
        """The old pair, and nothing else."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.template, self.work)

    def run(self) -> None:
        """What is killed."""
        normfold.optimize(self.source, self.out, config=_CONFIG)

    def judge(self) -> str:
        """What is wrong after a death; "" if nothing is."""
        try:
            found = pair(self.out)
        except OSError as error:
            return f"torn: {error}"
        if found not in (self.old, self.new):
            return "torn: neither the old pair nor the new one"
        self.run()
        if pair(self.out) != self.new:
            return "the next run did not make the new pair"
        left = {item.name for item in self.work.iterdir()} - self.new.keys()
        # Data that a run left without its model, or did not get to remove, is whole and has a name made of its content.
        litter = (
            left - self.old.keys() - {"out.normstats.npz"}
        )  # the statistics, which name the model that they belong to
        return f"left: {sorted(litter)}" if litter else ""


def forked(body: Callable[[], None]) -> int:
    """The number of a child that runs `body` and ends with 0."""
    child = os.fork()
    if not child:
        try:
            body()
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(3)
        os._exit(0)
    return child


def dying_at(ground: Ground, step: int) -> Callable[[], None]:
    """A run that kills itself at the n-th call of the system."""
    count = 0

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    def body() -> None:
        for name in _CALLS:
            setattr(os, name, watched(getattr(os, name)))
        fcntl.flock = watched(fcntl.flock)  # type: ignore[assignment]
        ground.run()

    return body


def steps(ground: Ground, counts: Counter[str]) -> list[str]:
    """Killed at every call, until one run gets through."""
    problems, step = [], 0
    while True:
        step += 1
        ground.reset()
        status = os.waitpid(forked(dying_at(ground, step)), 0)[1]
        if not os.WIFSIGNALED(status):
            if os.waitstatus_to_exitcode(status):
                problems.append(f"step {step}: exit code {os.waitstatus_to_exitcode(status)}")
            counts["steps"] = step - 1
            return problems
        _note(ground, f"step {step}", counts, problems)


def moments(ground: Ground, count: int, seed: int, counts: Counter[str]) -> list[str]:
    """Killed at random."""
    problems: list[str] = []
    rng = random.Random(seed)
    for number in range(count):
        ground.reset()
        child = forked(ground.run)
        time.sleep(rng.random() * ground.seconds * 1.2)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        counts["killed" if os.WIFSIGNALED(status) else "too late"] += 1
        _note(ground, f"kill {number} of seed {seed}", counts, problems)
    return problems


def _note(ground: Ground, what: str, counts: Counter[str], problems: list[str]) -> None:
    try:
        counts["new pair" if pair(ground.out) == ground.new else "old pair"] += 1
    except OSError:
        counts["torn"] += 1
    problem = ground.judge()
    if problem:
        problems.append(f"{what}: {problem}")


def main() -> int:
    """Print what was wrong; 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="kills at random moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="where, for another file system")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        ground = Ground(Path(name))
        problems = steps(ground, counts) + moments(ground, options.count, options.seed, counts)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    sys.stdout.write(f"{dict(counts)}, {len(problems)} problems\n")
    return 1 if problems or not counts["steps"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
