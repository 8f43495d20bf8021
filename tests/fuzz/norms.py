"""Random nets of norms for every target: what is planned for a model leaves nothing for a second plan.

`python -m tests.fuzz.norms --seconds 600` searches for more; nothing is run, so targets without a runtime here take part too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator

from onnx import ModelProto

from normfold.model.load import load
from normfold.model.tensors import RangeRefusal
from normfold.model.write import to_bytes
from normfold.surgery.apply import apply
from normfold.surgery.everything import Wishes, plan_everything
from normfold.surgery.plan import Outcome
from normfold.surgery.planner import Exclusions
from normfold.targets.names import Target
from tests.fuzz.norm_spellings import random_norms
from tests.fuzz.outliner import outlined


def left_over(model: ModelProto, target: Target, threads: int | None) -> tuple[int, list[str]]:
    """The number of edits of a plan, and what a second one would still do with the result."""
    wishes = Wishes(target, threads)
    first = plan_everything(load(model), Exclusions({}), wishes)
    if not first.plan.all_edits:
        return 0, []
    try:
        written = ModelProto.FromString(to_bytes(apply(first.model, first.plan, {})))
        then = plan_everything(load(written), Exclusions({}), wishes).plan
    except RangeRefusal:
        return 0, []
    applied = [d.message for d in then.decisions if then.all_edits and d.outcome is Outcome.APPLIED]
    return len(first.plan.all_edits), applied


def variants(seed: int) -> Iterator[tuple[ModelProto, Target, int | None]]:
    """The model of a seed, and with parts of it in functions, for every target; nothing if the seed has no model."""
    model = random_norms(seed)
    if model is None:
        return
    for target in Target:
        yield model, target, 1 if seed % 2 else None
    moved = outlined(model, seed)
    if moved is not None:
        yield moved, list(Target)[seed % len(Target)], None


def main() -> int:
    """Run until the time is up; 1 if a second plan had something to do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; every model has its own")
    arguments = parser.parse_args()
    until, seed, counts = time.monotonic() + arguments.seconds, arguments.seed, Counter[str]()
    while time.monotonic() < until:
        for model, target, threads in variants(seed):
            edits, left = left_over(model, target, threads)
            counts.update({"plans": 1, "edits": edits, "left over": bool(left)})
            if left:
                kind = "in functions, " if model.functions else ""
                sys.stdout.write(f"seed {seed}, {kind}{target.value}, threads {threads}: {left}\n")
        seed += 1
    sys.stdout.write(f"{dict(counts)}; the next seed is {seed}\n")
    return 1 if counts["left over"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
