"""A pytest plugin that collects the tests once and then forks a child for each guard, with that guard left out.

The parent never runs a test: it has no session of onnxruntime, no thread and no warm cache that a child could inherit. What it
has to do stands in the file that `NORMFOLD_MUTATION_ORDER` names; what it found is written beside it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.mutation import probe
from tests.mutation.choice import Heard, chosen

_ORDER = "NORMFOLD_MUTATION_ORDER"
_failed = False


@dataclass
class Job:
    """A child: who it is for, and when it is given up."""

    key: int
    deadline: float


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember that a test did not pass."""
    global _failed
    _failed = _failed or report.failed


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Instead of running the tests."""
    place = Path(os.environ[_ORDER])
    order = json.loads(place.read_text("utf-8"))
    gc.collect()
    gc.freeze()
    heard = _listened(session.items, order["jobs"], place.parent)
    os.write(order["progress"], f"{len(heard)} tests heard\n".encode())
    broken = [name for name, found in heard.items() if not found.passed]
    for name in broken:
        del heard[name]
    result = {"broken": broken, **_judged(session.items, heard, order)}
    (place.parent / "result.json").write_text(json.dumps(result), "utf-8")
    return True


def _listened(items: list[pytest.Item], jobs: int, folder: Path) -> dict[str, Heard]:
    """What every test makes speak, and how long it takes."""

    def listen(part: int) -> NoReturn:
        notes: dict[str, Any] = {}
        caches = _caches()
        for item in items[part::jobs]:
            for clear in caches:
                clear()  # what an earlier test computed would not be asked again
            probe.spoken.clear()
            probe.reached.clear()
            started = time.perf_counter()
            passed = _passes(item)
            notes[item.nodeid] = (sorted(probe.spoken), sorted(probe.reached), time.perf_counter() - started, passed)
        (folder / f"heard-{part}.json").write_text(json.dumps(notes), "utf-8")
        os._exit(0)

    for _ in _children(list(range(jobs)), listen, jobs, lambda _: 7200.0):
        pass
    heard: dict[str, Heard] = {}
    for part in range(jobs):
        notes = json.loads((folder / f"heard-{part}.json").read_text("utf-8"))
        heard |= {name: Heard(frozenset(s), frozenset(r), seconds, ok) for name, (s, r, seconds, ok) in notes.items()}
    return heard


def _caches() -> list[Callable[[], None]]:
    """What empties the caches of the functions of the rules."""
    modules = [module for name, module in sys.modules.items() if name.startswith("normfold.")]
    found = {id(thing): thing for module in modules for thing in vars(module).values() if hasattr(thing, "cache_clear")}
    return [thing.cache_clear for thing in found.values()]


def _judged(items: list[pytest.Item], heard: dict[str, Heard], order: dict[str, Any]) -> dict[str, Any]:
    """The guards that nobody makes speak, and those that nobody misses."""
    by_name = {item.nodeid: item for item in items}
    tests = {number: chosen(number, heard, order["tests"], order["seconds"]) for number in order["guards"]}
    asked = [number for number in order["guards"] if tests[number]]

    def judge(number: int) -> NoReturn:
        probe.off = number
        os._exit(0 if all(_passes(by_name[name]) for name in tests[number]) else 1)

    def limit(number: int) -> float:
        return 30.0 + 4.0 * sum(heard[name].seconds for name in tests[number])

    survivors: list[int] = []
    for count, (number, status) in enumerate(_children(asked, judge, order["jobs"], limit), 1):
        if status == 0:
            survivors.append(number)
            os.write(order["progress"], f"{count} of {len(asked)}: {order['names'][str(number)]}\n".encode())
    silent = [number for number in order["guards"] if not tests[number]]
    return {"silent": silent, "survivors": survivors, "tests": {number: tests[number] for number in survivors}}


def _passes(item: pytest.Item) -> bool:
    global _failed
    _failed = False
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    return not _failed


def _children(
    keys: list[int], work: Callable[[int], NoReturn], jobs: int, limit: Callable[[int], float]
) -> Iterator[tuple[int, int]]:
    """Fork one child per key, at most so many at a time; every key with its exit status, in the order in which they end.

    A child that runs longer than its limit is killed, with everything that it started.
    """
    waiting, running = keys[::-1], dict[int, Job]()
    while waiting or running:
        while waiting and len(running) < jobs:
            key = waiting.pop()
            running[_forked(work, key)] = Job(key, time.monotonic() + limit(key))
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            yield running.pop(pid).key, status
            continue
        for late in [child for child, job in running.items() if job.deadline < time.monotonic()]:
            os.killpg(late, signal.SIGKILL)
        time.sleep(0.005)


def _forked(work: Callable[[int], NoReturn], key: int) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        work(key)
    finally:
        os._exit(3)
