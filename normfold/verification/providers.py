"""Which execution provider the sessions run on: the target's, if it works here, else the CPU."""

from __future__ import annotations

from .kernels import CPU, PROVIDERS, Runtime
from .runner import Worker
from .verdicts import VerifyOptions


def choose_runtime(options: VerifyOptions, worker: Worker) -> Runtime:
    """Decide where to run and tell `worker`.

    A provider that is installed may still not work (no device, a library that does not load), so it is tried, with the
    fallback to the CPU disabled.

    Raises:
        WorkerError: the child process failed in a way that says nothing about the provider.
    """
    wanted = PROVIDERS.get(options.target, "")
    providers = options.providers or ((wanted, CPU) if wanted not in ("", CPU) and worker.has(wanted) else (CPU,))
    worker.providers = providers
    return Runtime(providers, wanted, wanted == providers[0])
