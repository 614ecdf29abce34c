"""Trainings whose images stay on the device: here the CPU's memory, by the same code."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import note_samples, run_script, start_ranks, train_to_the_end
from safetensors.torch import load_file

from vocdist.runs.folder import load_results
from vocdist.shards.reader import ShardReader

COMMON = [
    "train.epochs=2",
    "train.save_every=2",
    "train.log_every=1",
    "train.global_batch=6",
    "data.num_workers=0",
    "data.resident=device",
    "tracking.wandb=disabled",
]
TASKS = {
    "classifier": ["model.weights=none", "input.size=48", "input.min_visible=0.25"],
    "rpn": [
        "model.classifier=none",
        "model.weights=none",
        "model.strides=[32]",
        "model.scales=[[16, 32]]",
        "features.cache=false",
        "input.short_side=64",
        "input.long_side=96",
        "input.flip=true",
    ],
}


def arguments(task: str, shards: Path, run: Path, *more: str) -> list[str]:
    return [f"data.shards={shards}", f"run.dir={run}", *COMMON, *TASKS[task], *more]


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.parametrize("task", TASKS)
def test_each_image_is_read_once_and_the_training_is_that_of_loaded_ones(
    task: str, demo_shards: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    resident = arguments(task, demo_shards, tmp_path / "resident")
    train_to_the_end(task, resident, log, prepare=note_samples)
    loaded = arguments(task, demo_shards, tmp_path / "loaded", "data.resident=none")
    train_to_the_end(task, loaded, tmp_path / "log2")
    reads = Counter("".join(path.read_text() for path in log.glob("reads-*.txt")).splitlines())
    train = [f"train {index}" for index in range(36)]
    assert {reads[one] for one in train} == {1}
    # Pictures and the page read some of val again.
    np.testing.assert_allclose(
        losses(tmp_path / "resident"), losses(tmp_path / "loaded"), rtol=0.05, atol=0.02
    )


@pytest.mark.parametrize("task", [pytest.param("classifier", marks=pytest.mark.slow), "rpn"])
def test_two_processes_decode_half_each_and_train_as_one_does(
    task: str, demo_shards: Path, tmp_path: Path
) -> None:
    for world in (1, 2):
        run = tmp_path / str(world)
        own = arguments(task, demo_shards, run, "train.epochs=1")
        done = run_script(f"train_{task}.py", *own, world=world)
        assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path / "2"), losses(tmp_path / "1"), rtol=1e-4)
    one, two = (load_results(tmp_path / world / "results.json") for world in ("1", "2"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_killed_and_resumed_it_ends_with_the_same_bits(demo_shards: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_to_the_end("classifier", arguments("classifier", demo_shards, whole), tmp_path / "log")
    own = arguments("classifier", demo_shards, killed)
    (process,) = start_ranks("classifier", own, tmp_path / "log1")
    metrics = killed / "metrics.jsonl"
    while not (metrics.is_file() and len(metrics.read_bytes().splitlines()) >= 4):
        assert process.is_alive()
        process.join(0.02)
    process.kill()
    process.join()
    assert "going on from" in train_to_the_end("classifier", own, tmp_path / "log2")
    weights = load_file(killed / "model.safetensors")
    for name, value in load_file(whole / "model.safetensors").items():
        assert torch.equal(weights[name], value), name


def test_a_damaged_image_ends_all_ranks_with_its_name(demo_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(demo_shards, shards)
    _, entry = ShardReader(shards, "val")._locate(2)
    with (shards / "val-000000.tar").open("r+b") as tar:
        tar.seek(entry.jpg_offset)
        tar.write(b"\0" * entry.jpg_size)
    own = arguments("classifier", shards, tmp_path / "run")
    done = run_script("train_classifier.py", *own, world=2)
    assert done.returncode == 2
    assert "not a readable JPEG" in done.stderr
