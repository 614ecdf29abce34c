"""`--dry-run` of a recipe that keeps features: what the run would see and write."""

import re
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from launch import RPN

from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.file import load_config
from vocdist.errors import UserError
from vocdist.tasks.task import build_task
from vocdist.training.loaders import build_readers, training_loaders
from vocdist.training.modes.dry_run import dry_run


def rpn(shards: Path, run: Path, *more: str) -> RpnConfig:
    own = [f"data.shards={shards}", f"run.dir={run}", "model.classifier=none", "model.weights=none"]
    return load_config(RpnConfig, None, [*RPN, *own, *more])


def test_a_dry_run_tells_of_the_features_that_a_run_would_keep(
    demo_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ["features.cache=true", "input.snap=true", f"features.folder={tmp_path / 'kept'}"]
    large = ["input.short_side=128", "input.long_side=192"]
    config = rpn(demo_shards, tmp_path / "run", *kept, *large)
    dry_run(config)
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    readers = build_readers(config)
    torch.manual_seed(0)
    task = build_task(config, readers.train, pretrained=False)
    loaders = training_loaders(config, task, readers, Accelerator(cpu=True))
    batch = next(loaders[0].training(0))
    assert f"first input {tuple(batch.inputs[0].shape)} float16" in words
    size = sum(path.stat().st_size for path in (tmp_path / "kept").glob("*.safetensors"))
    told = re.search(r"([\d.]+) MiB of features", words)
    # Of each file the header comes on top.
    assert told and float(told[1]) == pytest.approx(size / 2**20, rel=0.1)
    assert "report.html" in words and not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"input\.snap=true"):
        dry_run(rpn(demo_shards, tmp_path / "run", "features.cache=true", "input.snap=false"))


def test_a_dry_run_finds_the_checkpoint_it_would_go_on_from(
    classifier_run: Path, demo_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in classifier_run.rglob("*")}
    dry_run(load_config(ClassifierConfig, classifier_run / "config.yaml"))
    assert "would go on from" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in classifier_run.rglob("*")} == before
