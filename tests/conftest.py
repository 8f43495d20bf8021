"""What all tests share: hypothesis draws the same examples everywhere, so a red run can be repeated."""

import os
import signal
import tempfile

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


def pytest_configure(config: pytest.Config) -> None:
    """Set up the process for the children that tests start."""
    _stop_as_usual()
    _keep_bytecode(config)


def _stop_as_usual() -> None:
    """Processes inherit signals that are ignored, as a shell does for what runs in the background; ours are to be stopped."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def _keep_bytecode(config: pytest.Config) -> None:
    """Hundreds of children compile normfold once, also where bytecode is not to stay behind (containers)."""
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        folder = tempfile.TemporaryDirectory(prefix="normfold-tests-bytecode-")
        config.add_cleanup(folder.cleanup)
        os.environ["PYTHONPYCACHEPREFIX"] = folder.name
