"""What all tests share: hypothesis draws the same examples everywhere, so a red run can be repeated."""

import signal

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Processes inherit signals that are ignored, as a shell does for what runs in the background; ours are to be stopped."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
