import json
from pathlib import Path

import pytest

from vocdist.config import ClassifierConfig
from vocdist.config.file import load_config
from vocdist.runs.checkpoint import Checkpoints
from vocdist.training.evaluation import measure_run
from vocdist.training.run import train


def test_without_a_best_checkpoint_what_is_left_is_what_was_measured(
    demo_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As where its disk has damaged it.
    monkeypatch.setattr(Checkpoints, "best", lambda self: None)
    run = tmp_path / "run"
    settings = [
        *(f"data.shards={demo_shards}", f"run.dir={run}", "data.num_workers=0"),
        *("data.limit_train=24", "data.limit_val=9", "train.epochs=1", "train.global_batch=8"),
        *("model.weights=none", "input.size=32", "tracking.wandb=disabled", "runtime.device=cpu"),
        # The averaged weights are far from those that training would go on from.
        *("optim.ema_decay=0.9", "optim.lr=0.01"),
    ]
    train(load_config(ClassifierConfig, None, settings))
    assert "no whole best checkpoint: the weights of the last epoch (1)" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert results.pop("epoch") == 1
    measured = measure_run(run, []).evaluation.metrics
    assert measured == pytest.approx(results, abs=1e-6)
