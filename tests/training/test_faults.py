"""Numbers and machines that go wrong: one clear error, no hang, and the last checkpoint is good."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from faults import (
    SPOILT,
    Prepare,
    bad_gradient,
    bad_loss,
    killed_worker,
    small_files_after_a_checkpoint,
)
from forked import start_ranks, train_to_the_end
from safetensors.torch import load_file

from vocdist.errors import UserError
from vocdist.runs.checkpoint import WEIGHTS, Checkpoints, damage
from vocdist.training.status import readable_errors

FAST = [
    "model.weights=none",
    "loss.pos_weight=none",
    "input.size=32",
    "train.epochs=2",
    "train.global_batch=6",
    "train.save_every=1",
    "train.log_every=1",
    "data.num_workers=0",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
]


def fails(overrides: Sequence[str], log: Path, prepare: Prepare | None, world: int = 1) -> str:
    """Train until it fails on every rank; what the ranks said."""
    ranks = start_ranks("classifier", overrides, log, world=world, prepare=prepare)
    for process in ranks:
        process.join(240)
    text = "".join((log / f"{process.pid}.out").read_text() for process in ranks)
    assert all(process.exitcode not in (0, None) for process in ranks), text
    assert "Traceback" not in text
    return text


def bad_steps(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "non_finite.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("spoil", "world"), [(bad_loss, 2), (bad_gradient, 1)])
def test_a_loss_or_gradient_that_is_no_number_stops_all_ranks_with_the_samples(
    demo_shards: Path, tmp_path: Path, spoil: Prepare, world: int
) -> None:
    run = tmp_path / "a.run"
    overrides = [f"data.shards={demo_shards}", f"run.dir={run}", *FAST]
    text = fails(overrides, tmp_path / "a", spoil, world)
    assert text.count("error") == 1
    assert "its samples are in" in text and "train.non_finite=skip" in text
    (row,) = bad_steps(run)
    samples = row["samples"]
    assert isinstance(samples, list) and len(samples) == 6
    assert SPOILT & {sample["index"] for sample in samples}
    if spoil is bad_loss:
        assert {s["index"] for s in samples if s["loss"] == "nan"} <= SPOILT
    else:
        assert row["gradient_norm"] in ("inf", "nan")
        assert all(isinstance(sample["loss"], float) for sample in samples)
    last = Checkpoints(run / "checkpoints", 1).last()
    assert last is not None
    assert last.name == f"step-{int(str(row['global_step'])) - 1:08d}"
    assert all(value.isfinite().all() for value in load_file(last / WEIGHTS).values())
    # The way out that the error names.
    text = train_to_the_end(
        "classifier",
        [*overrides, "train.non_finite=skip"],
        tmp_path / "b",
        world=world,
        prepare=spoil,
    )
    bad = [int(str(row["global_step"])) for row in bad_steps(run)]
    skipped = set(bad)
    assert len(bad) == len(skipped), "the first start's were made again"
    assert f"{len(skipped)} of 12 steps were skipped" in text
    weights = load_file(run / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {row["global_step"] for row in rows if "train/loss" in row}
    assert losses == set(range(1, 13)) - skipped
    assert rows[-1]["train/skipped_steps"] == len(skipped)


def test_numbers_that_explode_by_themselves_stop_the_run(demo_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = [f"data.shards={demo_shards}", f"run.dir={run}", *FAST, "optim.lr=1e30"]
    assert "is not finite" in fails(overrides, tmp_path / "log", None)
    last = Checkpoints(run / "checkpoints", 1).last()
    assert last is not None
    assert not any(value.isnan().any() for value in load_file(last / WEIGHTS).values())


def goes_on(overrides: Sequence[str], run: Path, log: Path) -> None:
    last = Checkpoints(run / "checkpoints", 1).last()
    assert last is not None and damage(last) is None
    assert f"going on from {last}" in train_to_the_end("classifier", overrides, log)


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_last_checkpoint(
    demo_shards: Path, tmp_path: Path, world: int
) -> None:
    run = tmp_path / "log.run"
    overrides = [f"data.shards={demo_shards}", f"run.dir={run}", *FAST]
    text = fails(overrides, tmp_path / "log", small_files_after_a_checkpoint, world)
    assert "cannot be written (File too large): free some space" in text
    assert not list((run / "checkpoints").glob(".*.tmp"))
    goes_on(overrides, run, tmp_path / "again")


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_loader_process_is_one_clear_error(
    demo_shards: Path, tmp_path: Path, world: int
) -> None:
    run = tmp_path / "log.run"
    overrides = [f"data.shards={demo_shards}", f"run.dir={run}", *FAST]
    busy = [*overrides, "data.num_workers=1", "train.epochs=200"]
    text = fails(busy, tmp_path / "log", killed_worker, world)
    assert "a loader process was killed, most often for want of memory" in text


@pytest.mark.slow
def test_a_shard_that_is_cut_in_mid_run_is_named(demo_shards: Path, tmp_path: Path) -> None:
    shards, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(demo_shards, shards)
    overrides = [f"data.shards={shards}", f"run.dir={run}", *FAST]
    long = [*overrides, "data.num_workers=1", "train.epochs=200"]
    ranks = start_ranks("classifier", long, tmp_path / "log")
    last, shard = run / "checkpoints" / "last", shards / "train-000001.tar"
    while not last.is_file():
        assert ranks[0].is_alive()
    shutil.copy(shard, tmp_path / "whole.tar")
    with shard.open("r+b") as file:
        file.truncate(2000)
    ranks[0].join(240)
    text = (tmp_path / "log" / f"{ranks[0].pid}.out").read_text()
    assert ranks[0].exitcode == 2, text
    assert f"error: {shard}: " in text and "Traceback" not in text
    shutil.move(tmp_path / "whole.tar", shard)
    checkpoint = Checkpoints(run / "checkpoints", 1).last()
    assert checkpoint is not None and damage(checkpoint) is None


def test_a_fused_optimizer_skips_on_the_device(tmp_path: Path) -> None:
    # What CUDA does, where no step may wait for its flag: the CPU's fused kernel obeys it too.
    from accelerate import Accelerator

    from vocdist.errors import SharedError
    from vocdist.training.guard import FiniteGuard, finite_or_nan

    def guard_of(stops: bool) -> tuple[FiniteGuard, torch.nn.Parameter]:
        weight = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        accelerator = Accelerator(cpu=True)
        path = tmp_path / "bad.jsonl"
        guard = FiniteGuard(
            accelerator, optimizer, statistics=[], stops=stops, path=path, key_of=str
        )
        return guard, weight

    def step(guard: FiniteGuard, weight: torch.nn.Parameter, number: int, value: float) -> float:
        loss = finite_or_nan((weight * value).sum())
        weight.grad = None
        loss.backward()
        assert weight.grad is not None
        return float(guard.take_step(number, weight.grad.norm()))

    guard, weight = guard_of(stops=False)
    only_good, reference = guard_of(stops=False)
    flags = [step(guard, weight, n, v) for n, v in enumerate((1.0, float("inf"), 2.0))]
    for number, value in enumerate((1.0, 2.0)):
        step(only_good, reference, number, value)
    assert flags == [0, 1, 0]
    # As if the bad step had never been: Adam's moments and its count of steps too.
    assert torch.equal(weight, reference)
    guard.check_steps()
    assert guard.skipped == 1
    guard, weight = guard_of(stops=True)
    step(guard, weight, 1, float("nan"))
    with pytest.raises(SharedError, match="step 1 was not taken: its gradient is not finite"):
        guard.check_steps()


def test_a_small_shared_memory_is_named_with_its_remedy(tmp_path: Path) -> None:
    # torch's own words; a real one takes a mount of a few megabytes.
    words = (
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory."
    )
    with pytest.raises(UserError, match="docker run --shm-size=8g"), readable_errors(tmp_path):
        raise RuntimeError(words)
