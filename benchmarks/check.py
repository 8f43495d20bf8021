"""`normfold check` with data: does it name what was planted, leave healthy networks alone, and cost little?

    python -m benchmarks.check                       # everything; exit 1 when a goal is missed
    python -m benchmarks.check planted --seeds 5
    python -m benchmarks.check healthy --seeds 50
    python -m benchmarks.check nominal cost memory shards

| case | goal |
| :-- | :-- |
| planted | the code comes first, and exactly the layers at fault are root causes |
| healthy | at most 2 % of the layers warned, none failed |
| nominal | a test at 5 % is wrong in 2 to 8 % on spatially correlated data |
| cost | a pass with probes takes at most 1.5 times a pass without |
| memory | eight times as many samples take at most 1.1 times the memory |
| shards | merged shards equal one pass to 1e-12 relative |
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

import models
from models import planted
from normfold.checking import CheckConfig, check
from normfold.model.patch import Candidate
from normfold.statistics.collect import Batch, DataSource
from normfold.statistics.data import DataOptions, open_data
from normfold.statistics.judging.effects import effect
from normfold.statistics.moments import Moments, merge
from normfold.statistics.probes.collector import Runtime, collect
from normfold.statistics.schema import CheckReport, Status
from normfold.statistics.subject import open_subject
from normfold.statistics.thresholds import Thresholds

# What only a checkpoint can show.
_NEEDS_REFERENCE = frozenset(("X01",))


def _checked(case: planted.Case) -> CheckReport:
    return check(case.model, data={"x": case.data}, config=CheckConfig(data=DataOptions(batch=case.batch_size)))


def planted_faults(seeds: int) -> bool:
    """Every planted fault, by name."""
    good = total = 0
    for name in planted.FAULTS:
        for seed in range(seeds):
            case = planted.build(name, seed)
            if case.code in _NEEDS_REFERENCE:
                continue
            report = _checked(case)
            first = report.findings[0].code if report.findings else "nothing"
            roots = tuple(layer.position for layer in report.layers if layer.is_root_cause)
            right = first == case.code and (not case.layers or roots == case.layers)
            good, total = good + right, total + 1
            if not right:
                print(f"  {name}, seed {seed}: {first} at {roots}, wanted {case.code} at {case.layers or 'any'}")
    print(f"planted: {good} of {total} named right")
    return good == total


def healthy_networks(seeds: int) -> bool:
    """No false alarm."""
    seen: Counter[Status] = Counter()
    codes: Counter[str] = Counter()
    for name in planted.HEALTHY:
        for seed in range(seeds):
            report = _checked(planted.build(name, seed))
            seen.update(layer.status for layer in report.layers)
            codes.update(found.code for found in report.findings)
            alarms = [layer.node for layer in report.layers if layer.status in (Status.WARN, Status.FAIL)]
            if alarms:
                print(f"  {name}, seed {seed}: {', '.join(alarms)}")
        planted.build.cache_clear()
    total = sum(seen.values())
    shares = {status.value: f"{seen[status] / total:.2%}" for status in Status if seen[status]}
    print(f"healthy: {shares} of {total} layers; findings {dict(codes) or 'none'}")
    return seen[Status.WARN] <= 0.02 * total and not seen[Status.FAIL]


def nominal(runs: int = 2000, samples: int = 128) -> bool:
    """How often a test at 5 % rejects what is true."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(20000, 4, 3, 3)).repeat(4, 2).repeat(4, 3)
    contrast = np.exp(0.3 * rng.normal(size=(20000, 4, 1, 1)))
    whole = contrast * (coarse + 0.3 * rng.normal(size=coarse.shape)) + 0.5 * rng.normal(size=(20000, 4, 1, 1))
    site = open_subject(_norm(whole.mean((0, 2, 3)), whole.var((0, 2, 3)))).sites[0]
    a, q = whole.mean((2, 3)), (whole**2).mean((2, 3))
    wrong = np.zeros(2)
    for _ in range(runs):
        chosen = rng.choice(len(whole), samples, replace=False)
        state = Moments.empty(np.zeros(4), 16)
        state.add(a[chosen], q[chosen], np.full(samples, 144.0))
        found = effect(site, state.estimate(), Thresholds())
        wrong += [(found.shift_p < 0.05).mean(), (found.log_std_p < 0.05).mean()]
    shares = wrong / runs
    print(f"nominal 5 %: mean {shares[0]:.1%}, variance {shares[1]:.1%}")
    return bool(((shares > 0.02) & (shares < 0.08)).all())


def _norm(mean: np.ndarray, var: np.ndarray) -> ModelProto:
    values = {"gamma": np.ones(len(mean)), "beta": np.zeros(len(mean)), "mean": mean, "var": var}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", *values], ["y"])], "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(mean), "H", "W"])],
        [helper.make_empty_tensor_value_info("y")], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _network(width: int, blocks: int) -> ModelProto:
    """Conv-BatchNormalization-Relu blocks of one width on 32×32 maps, weights drawn."""
    rng = np.random.default_rng(0)
    nodes, tensors, x, before = [], [], "x", 3
    for i in range(blocks):
        weight = rng.normal(size=(width, before, 3, 3)) * np.sqrt(2 / (9 * before))
        values = {"w": weight, "g": np.ones(width), "b": np.zeros(width), "m": np.zeros(width), "v": np.ones(width)}
        tensors += [numpy_helper.from_array(value.astype(np.float32), f"{k}{i}") for k, value in values.items()]
        nodes += [
            helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"c{i}", f"g{i}", f"b{i}", f"m{i}", f"v{i}"], [f"n{i}"]),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"]),
        ]
        x, before = f"r{i}", width
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["y"]))
    graph = helper.make_graph(
        nodes, "network", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_empty_tensor_value_info("y")], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def cost(rounds: int = 7) -> bool:
    """Pairs of passes over the same batches, with and without probes, in turns."""
    fine = True
    mobile = models.build("mobilenet_v2", seed=0)
    (port, example), *_ = models.feeds(mobile).items()
    cases = {"convolutions": (_network(16, 8), "x", (3, 32, 32)), "mobilenet_v2": (mobile, port, example.shape[1:])}
    for name, (model, feed, shape) in cases.items():
        subject = open_subject(model)
        data = np.random.default_rng(0).normal(size=(1024, *shape)).astype(np.float32)
        source = open_data({feed: data}, subject.model)
        plain_model = Candidate(subject.model, {}, dict(subject.model.metadata))
        ratios = []
        with Runtime() as runtime:
            for _ in range(rounds):
                begin = time.perf_counter()
                for _ in runtime.open(plain_model).stream(source.batches(), None):
                    pass
                plain = time.perf_counter() - begin
                begin = time.perf_counter()
                collect(subject, source, runtime=runtime)
                ratios.append((time.perf_counter() - begin) / plain)
        ratio = statistics.median(ratios)
        print(f"cost, {name}: {ratio:.2f}x plain inference of the same batches ({len(subject.sites)} layers)")
        fine &= ratio <= 1.5
    return fine


class _Endless:
    """Samples that are made when they are read."""

    description, batch_size, grouped = "made", 32, False

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def batches(self) -> Iterator[Batch]:
        """From the start."""
        for index in range(self.samples // 32):
            x = np.random.default_rng(index).normal(size=(32, 3, 32, 32)).astype(np.float32)
            yield Batch(index, {"x": x}, 32)


def _peak(samples: int) -> None:
    source: DataSource = _Endless(samples)
    collect(open_subject(_network(16, 4)), source)
    usage = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    print(sum(resource.getrusage(who).ru_maxrss for who in usage))


def memory() -> bool:
    """Peak of both processes, for few and for many samples."""
    few, many = (
        int(subprocess.run([sys.executable, "-m", "benchmarks.check", "peak", "--samples", str(n)],
                           capture_output=True, text=True, check=True).stdout)
        for n in (1024, 8192)
    )  # fmt: skip
    print(f"memory: {few >> 10} MiB for 1024 samples, {many >> 10} MiB for 8192")
    return many <= 1.1 * few


def shards() -> bool:
    """Two, three and seven shards against one pass."""
    case = planted.build("healthy_cnn")
    subject = open_subject(case.model)
    source = open_data({"x": case.data}, subject.model, DataOptions(batch=16))
    whole = collect(subject, source).moments
    worst = 0.0
    for count in (2, 3, 7):
        parts = [
            collect(subject, source, wanted=lambda batch, s=s, n=count: batch.index % n == s).moments
            for s in range(count)
        ]
        for key, moments in whole.items():
            one, merged = moments.estimate(), merge([part[key] for part in parts]).estimate()
            for name in ("mean", "var", "se_mean", "se_var", "n_eff", "batch_var"):
                a, b = getattr(one, name), getattr(merged, name)
                worst = max(worst, float((np.abs(a - b) / np.abs(a)).max()))
    print(f"shards: largest relative difference {worst:.1e}")
    return worst <= 1e-12


def main() -> None:
    """Run the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases: dict[str, Callable[[argparse.Namespace], bool]] = {
        "planted": lambda given: planted_faults(min(given.seeds, 10)),
        "healthy": lambda given: healthy_networks(given.seeds),
        "nominal": lambda _: nominal(),
        "cost": lambda _: cost(),
        "memory": lambda _: memory(),
        "shards": lambda _: shards(),
    }
    parser.add_argument("cases", nargs="*", choices=[*cases, "peak"], metavar="CASE", help=", ".join(cases))
    parser.add_argument("--seeds", type=int, default=50, help="for planted (10 at most) and healthy")
    parser.add_argument("--samples", type=int, default=1024, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cases == ["peak"]:
        _peak(given.samples)
        return
    results = [cases[name](given) for name in given.cases or cases]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
