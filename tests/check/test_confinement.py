"""Whatever runs a model for `check`, `recalibrate` or `stats` runs it as verification would: in a confined process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import normfold
from normfold import CheckConfig, Source, Trust
from normfold.collecting import collect_part, record_baseline
from normfold.errors import InputError, WorkerError
from normfold.model.load import load
from normfold.recalibration import RecalibrateConfig
from normfold.statistics.data import DataOptions
from normfold.statistics.probes.passes import Limits, Runtime
from normfold.statistics.shards import Shard
from normfold.statistics.with_data import DataSettings
from normfold.verification.runner import Worker
from tests.check.networks import Net, images

X = images(48)
OPTIONS = DataOptions(batch=8)
BOUNDS = Limits(timeout_s=77, memory_bytes=3 << 30, threads=1)
RUNS: dict[str, Callable[[Source, Path], object]] = {
    "check": lambda source, data: normfold.check(
        source, data=data, config=CheckConfig(data=OPTIONS, run=DataSettings(limits=BOUNDS))
    ),
    "recalibrate": lambda source, data: normfold.recalibrate(
        source, data=data, config=RecalibrateConfig(data=OPTIONS, limits=BOUNDS, min_gain=0)
    ),
    "collect": lambda source, data: collect_part(source, data, Shard(0, 1), options=OPTIONS, limits=BOUNDS),
    "record": lambda source, data: record_baseline(
        source, data, data.with_name("base.npz"), options=OPTIONS, limits=BOUNDS
    ),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = Net(layers=2).model()
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "m.onnx"


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Every worker that is made, and nothing that it does."""
    made: list[Worker] = []
    real = Worker.__init__

    def noted(self: Worker, **options: object) -> None:
        real(self, **options)  # type: ignore[arg-type]
        made.append(self)

    def broken(*_: object) -> None:
        raise WorkerError("worker.crashed", "nothing is run")

    monkeypatch.setattr(Worker, "__init__", noted)
    monkeypatch.setattr(Worker, "run", broken)
    return made


@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_every_session_has_the_limits_that_were_asked_for(
    model: Path, workers: list[Worker], run: str, untrusted: bool
) -> None:
    source = Source(model, trust=Trust.of(None, untrusted=untrusted))
    with pytest.raises(WorkerError):
        RUNS[run](source, model.with_name("x.npy"))
    (worker,) = workers
    assert (worker.timeout_s, worker.memory, worker.threads) == (77, 3 << 30, 1)
    assert worker.isolated is untrusted


def test_what_is_mapped_comes_on_top_of_the_memory_of_the_machine(model: Path) -> None:
    loaded = load(model)
    limits = Limits().of(loaded)
    assert limits.mapped_bytes == len(loaded.buffer) + (model.parent / "m.data").stat().st_size
    with Runtime(limits) as runtime, Runtime(Limits()) as plain:
        more, less = runtime._worker.memory, plain._worker.memory
    assert more is None or less is None or more - less == limits.mapped_bytes


def test_jobs_of_a_stranger_s_model_have_a_process_each(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    real = Worker._start

    def noted(self: Worker):  # type: ignore[no-untyped-def]
        process = real(self)
        started.append(process.pid)
        return process

    monkeypatch.setattr(Worker, "_start", noted)
    data = model.with_name("x.npy")
    options = DataOptions(batch=2)  # 24 batches, which are two jobs
    parts = []
    for untrusted in (False, True):
        source = Source(model, trust=Trust.of(None, untrusted=untrusted))
        parts.append(collect_part(source, data, Shard(0, 1), options=options))
    assert len(set(started)) == 3
    assert parts[0].to_bytes() == parts[1].to_bytes()


@pytest.mark.parametrize("run", RUNS)
def test_no_runtime_sees_a_model_whose_data_lie_elsewhere(model: Path, workers: list[Worker], run: str) -> None:
    """It would follow the link, and what stands there would go into statistics."""
    (model.parent.parent / f"{model.parent.name}.secret").write_bytes((model.parent / "m.data").read_bytes())
    (model.parent / "m.data").unlink()
    (model.parent / "m.data").symlink_to(f"../{model.parent.name}.secret")
    with pytest.raises(InputError) as caught:
        RUNS[run](Source(model), model.with_name("x.npy"))
    assert caught.value.code == "extdata.escape"


def test_a_model_that_changes_while_it_is_measured_is_not_replaced(model: Path) -> None:
    """What is written is made of what was read; that must still be what lies there."""
    onnx.save(Net(layers=2).model(), model)
    out = model.with_name("out.onnx")

    def touched(stage: str, done: int, total: int) -> None:
        if stage == "judging":
            os.utime(model, ns=(1, 1))

    with pytest.raises(InputError) as caught:
        settings = RecalibrateConfig(data=OPTIONS)
        normfold.recalibrate(model, out, data={"x": images(192)}, config=settings, progress=touched)
    assert caught.value.code == "input.changed"
    assert not out.exists()
