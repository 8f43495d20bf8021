"""Run one command and print what it cost: `launcher.py TIMEOUT COMMAND…`.

A process of its own, and a small one: Linux carries the resident peak of the process that forks into the child's
`ru_maxrss`, so a parent that has loaded models would be charged to the tool that it measures.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Print one JSON line: return code, wall seconds, peak KiB, the tail of what the command said."""
    timeout, command = float(sys.argv[1]), sys.argv[2:]
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(child.pid, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, timeout)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        signal.setitimer(signal.ITIMER_REAL, 0)
        said.seek(0)
        tail = said.read()[-2000:].decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps({"code": code, "wall": wall, "peak_kib": usage.ru_maxrss, "tail": tail}))


main()
