"""The process that a shell sees: it waits for the one that does the work, and says how that ended.

A file that is cut short while it is mapped, a native library that stumbles over a model, or a system that runs out of memory
ends a process without a word; another one has to say what happened. It is split off before anything is imported, which
takes a millisecond. What the user sends to this process goes on to the other; if this one is killed, the other ends too.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

_CAUSES = {
    "SIGBUS": ("input.changed", "a file was cut short while it was read, or a disk failed"),
    "SIGKILL": ("process.killed", "the system was probably out of memory"),
    "SIGXCPU": ("process.killed", "the limit of processor time was reached"),
    "SIGXFSZ": ("process.killed", "the limit of the size of a file was reached"),
}
_CRASHED = ("process.crashed", "a native library stumbled over this model; please report it")
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGINT")
_DONE, _LONGEST = b"\0", 1000


def main() -> NoReturn:
    """Run the command line in a child process; its exit code is the one of this process."""
    _occupy_streams()
    _take_any_text()
    if not hasattr(os, "fork"):
        _run()
    told, tell = os.pipe()
    ended, end = os.pipe()
    child = os.fork()
    if not child:
        os.close(tell)
        os.close(ended)
        _work(told, end)
    os.close(told)
    os.close(end)
    for name in _FORWARDED:
        if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), lambda number, _: _forward(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = os.read(ended, _LONGEST)
    if code >= 0 and said != _DONE:
        code = _left(code, said.decode("utf-8", "replace"))
    sys.exit(code if code >= 0 else _died(-code))


def _occupy_streams() -> None:
    """A stream that the caller closed leads nowhere; else the next file that is opened would take its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor != number:
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.set_inheritable(number, True)
        stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def _take_any_text() -> None:
    """A character that the language of the system does not have is no reason to lose a result.

    Where it has ASCII alone, as in a container without any language, text is UTF-8 all the same: JSON has to be.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding.lower() in ("ascii", "us-ascii", "ansi_x3.4-1968", "646"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
        elif stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _work(told: int, end: int) -> NoReturn:
    """Run the command line. What is written to the pipe `end` says that the exit code is its own, or what kept it from one."""
    try:
        _end_with(told)
        _run()
    except SystemExit:
        os.write(end, _DONE)
        raise
    except Exception as error:
        if "--debug" in sys.argv:
            os.write(end, _DONE)
            raise
        os.write(end, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_LONGEST])
        os._exit(1)


def _run() -> NoReturn:
    from .app import main as run

    run()


def _forward(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        return  # it is done


def _end_with(told: int) -> None:
    """End when the other end of the pipe closes: its process is gone, and nobody waits for a result."""
    from threading import Thread

    def wait() -> None:
        os.read(told, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=wait, daemon=True).start()


def _left(code: int, said: str) -> int:
    """A library ended the process, or it could not even begin: where memory is short, imports fail in ways of their own."""
    what = " ".join(said.split())[:200] or f"a library ended the process with status {code}"
    hint = "is there enough memory, and may it start threads (ulimit -v, ulimit -u)? --debug says more"
    try:
        from normfold.errors import NormfoldError

        from .boundary import asked_for, fail

        fail(*asked_for(sys.argv[1:]), NormfoldError("process.ended", what, hint=hint))
    except Exception:  # this process has no more than the other had
        sys.stderr.write(f"normfold: {what} - {hint}\n")
    return 2


def _died(number: int) -> int:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if name in _FORWARDED:
        return 128 + number  # sent by the user before the child could answer it
    if name == "SIGPIPE":
        return 141
    from normfold.errors import NormfoldError

    from .boundary import asked_for, fail

    code, cause = _CAUSES.get(name, _CRASHED)
    problem = NormfoldError(
        code, f"ended by {name}: {cause}", hint="the output is what it was before, or complete; run it again"
    )
    fail(*asked_for(sys.argv[1:]), problem)
    return 2
