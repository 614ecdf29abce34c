"""A whole training with `tracking.wandb=disabled` never loads W&B, which takes seconds."""

import subprocess
import sys
from pathlib import Path

from launch import CLASSIFIER, REPO, environment

CODE = """
import sys
from vocdist.config import ClassifierConfig
from vocdist.config.file import load_config
from vocdist.training.run import train

train(load_config(ClassifierConfig, None, sys.argv[1:]))
print("loaded", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_training_without_wandb_does_not_load_it(demo_shards: Path, tmp_path: Path) -> None:
    own = [f"data.shards={demo_shards}", f"run.dir={tmp_path / 'run'}", "train.epochs=1"]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *CLASSIFIER, *own, "tracking.wandb=disabled"],
        cwd=REPO,
        env={**environment(), "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (loaded,) = [line.split() for line in done.stdout.splitlines() if line.startswith("loaded")]
    assert "torch" in loaded and "wandb" not in loaded
    assert (tmp_path / "run" / "report.html").is_file()
