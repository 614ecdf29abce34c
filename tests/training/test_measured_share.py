"""Measuring chosen samples of a split, for what is learned from the train split at the end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_steps import trainer_of

from vocdist.config import ClassifierConfig
from vocdist.config.file import load_config
from vocdist.training import loop, run
from vocdist.training.evaluation import Evaluation, evaluate, measure_samples
from vocdist.training.loaders import build_loader, build_reader
from vocdist.training.run import _train_records


@pytest.mark.parametrize("shuffle_shards", ["null", "1"])
@pytest.mark.parametrize("view", ["frame", "squeezed"])
def test_chosen_samples_are_measured_once_over_all_ranks(
    demo_shards: Path, shuffle_shards: str, view: str
) -> None:
    overrides = [
        f"data.shards={demo_shards}",
        f"data.shuffle_shards={shuffle_shards}",
        f"input.eval_view={view}",
        "input.size=48",
        "train.eval_batch=3",
        "data.num_workers=0",
    ]
    config = load_config(ClassifierConfig, None, overrides)
    reader = build_reader(config, "train")
    chosen = np.array([0, 3, 4, 11, 17, 30, 35])
    seen: list[int] = []
    for rank in (0, 1):
        loader = build_loader(config, reader, training=False, rank=rank, world_size=2)
        seen += [i for batch in loader.evaluation(chosen) for i in batch.indices.tolist()]
    assert sorted(seen) == chosen.tolist()


def test_a_share_of_train_gives_the_records_that_the_whole_gives(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    overrides = [
        f"data.shards={demo_shards}",
        f"run.dir={tmp_path / 'run'}",
        "model.weights=none",
        "input.size=48",
        "data.num_workers=0",
        "train.eval_batch=1",
        "tracking.wandb=disabled",
    ]
    config = load_config(ClassifierConfig, None, overrides)
    with trainer_of("notebook", demo_shards, tmp_path / "run", "cpu", overrides[2:]) as trainer:
        whole = _train_records(config, trainer)
        monkeypatch.setattr(run, "TRAIN_RECORDS", 6)
        share = _train_records(config, trainer)
        loader = build_loader(config, trainer.train_loader.dataset.reader, training=False)
        with pytest.raises(RuntimeError, match="evaluated 36 samples, 36 of them distinct, of 35"):
            measure_samples(
                trainer.task, trainer.model, loader.evaluation(), range(35), trainer.accelerator
            )
        measured = evaluate(
            trainer.task, trainer.model, loader.evaluation(), 36, trainer.accelerator
        )
    torch.set_num_threads(threads)
    assert len(whole) == 36
    for record, index in zip(share, (0, 7, 14, 21, 28, 35), strict=True):
        for name, value in whole[index].items():
            np.testing.assert_array_equal(np.asarray(record[name]), np.asarray(value), name)
    assert [record["loss"] for record in measured.records] == [record["loss"] for record in whole]


@pytest.mark.parametrize("best_epoch", [1, 2])
def test_the_val_split_is_measured_once_more_only_where_other_weights_are_kept(
    best_epoch: int, demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    overrides = [
        f"data.shards={demo_shards}",
        f"run.dir={tmp_path / 'run'}",
        "data.limit_train=6",
        "data.limit_val=4",
        "model.weights=none",
        "input.size=32",
        "data.num_workers=0",
        "train.epochs=2",
        "tracking.wandb=disabled",
    ]
    measured: list[float] = []

    def counted(*arguments: Any) -> Evaluation:
        found = evaluate(*arguments)
        measured.append(found.metrics["loss"])
        # The first epoch or the second is the best, whatever was learned.
        rising = float(len(measured)) if best_epoch == 2 else -float(len(measured))
        return Evaluation({**found.metrics, "mAP": rising}, found.records)

    monkeypatch.setattr(loop, "evaluate", counted)
    results = run.train(load_config(ClassifierConfig, None, overrides))
    torch.set_num_threads(threads)
    assert results["epoch"] == best_epoch
    assert len(measured) == (2 if best_epoch == 2 else 3)
    assert results["loss"] == measured[best_epoch - 1] == measured[-1]
    assert "macro_f1_tuned" in results
