"""What a training leaves where its best checkpoint is no longer whole."""

import json
from pathlib import Path

import pytest
import torch
from forked import train_to_the_end
from safetensors.torch import load_file

from vocdist.runs.checkpoint import Checkpoints, load_position, load_training
from vocdist.training.evaluation import measure_run


def trained(shards: Path, run: Path) -> list[str]:
    """Train a run; the settings to go on with."""
    settings = [
        *(f"data.shards={shards}", f"run.dir={run}", "data.num_workers=0"),
        *("data.limit_train=24", "train.epochs=2", "train.global_batch=8"),
        # The ranking of a single image is always right: no epoch is better than the first.
        "data.limit_val=1",
        *("model.weights=none", "input.size=32", "tracking.wandb=disabled", "runtime.device=cpu"),
        # The averaged weights are far from those that training would go on from.
        *("optim.ema_decay=0.9", "optim.lr=0.01"),
    ]
    train_to_the_end("classifier", settings, run.parent / "log")
    return settings


def test_without_a_best_checkpoint_what_is_left_is_what_was_measured(
    demo_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = trained(demo_shards, run)
    checkpoints = Checkpoints(run / "checkpoints", 2)
    last = checkpoints.last()
    assert last is not None and load_position(last).epoch == 2
    best = checkpoints.best()
    assert best is not None and load_position(best).epoch == 1
    # As if the machine went down before the results were written, and the disk had damaged the best
    # checkpoint.
    content = bytearray((best / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (best / "model.safetensors").write_bytes(content)
    for name in ("results.json", "model.safetensors"):
        (run / name).unlink()
    text = train_to_the_end("classifier", settings, tmp_path / "again")
    assert f"{best}, the best so far, is damaged (model.safetensors does not match" in text
    assert "no whole best checkpoint: the weights of the last epoch (2)" in text
    results = json.loads((run / "results.json").read_text())
    assert results.pop("epoch") == 2
    left, kept = load_file(run / "model.safetensors"), load_file(last / "model.safetensors")
    assert all(torch.equal(left[name], kept[name]) for name in kept)
    live = load_training(last)["live"]
    assert not any(torch.equal(left[name], live[name]) for name in live if live[name].ndim > 1)
    measured = measure_run(run, []).evaluation.metrics
    assert measured == pytest.approx(results, abs=1e-6)
