"""Which of the tests that make a guard speak are run without it: the most specific and the fastest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest

# Tests in which a call refuses nothing.
_REACHING = 5


@dataclass(frozen=True)
class Heard:
    """A test with every guard in place: those that spoke, calls that were made, how long it took, whether it passed."""

    spoken: frozenset[int]
    reached: frozenset[int]
    seconds: float
    passed: bool


def chosen(number: int, heard: Mapping[str, Heard], most: int, seconds: float) -> list[str]:
    """The tests to run without a guard.

    Those that make few guards speak and those that are fast take turns: the ones are about this guard, the others are cheap.
    Where the guard is a call, a few follow for which it refused nothing: it may do something as well.

    Args:
        number: of the guard.
        heard: what every test does with every guard in place.
        most: so many tests at most; more do not say more.
        seconds: and so long together at most. One test is always chosen.
    """
    speaking = [name for name, found in heard.items() if number in found.spoken]
    specific = sorted(speaking, key=lambda name: (len(heard[name].spoken), heard[name].seconds))
    fast = sorted(speaking, key=lambda name: heard[name].seconds)
    silent = [name for name, found in heard.items() if speaking and number in found.reached - found.spoken]
    silent = sorted(silent, key=lambda name: heard[name].seconds)[:_REACHING]
    result: list[str] = []
    left = seconds
    for name in dict.fromkeys(chain.from_iterable(zip_longest(specific, fast))):
        if len(result) == most:
            break
        if result and heard[name].seconds > left:
            continue
        result.append(name)
        left -= heard[name].seconds
    return [*result, *silent]
