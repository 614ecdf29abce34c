"""A whole training with `tracking.wandb=disabled` never loads W&B, which takes seconds."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest
from forked import start_ranks
from launch import CLASSIFIER


class Refuses(MetaPathFinder):
    """Fails the import of W&B, which the machine has."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        """Give way to the next finder for all else."""
        assert fullname.partition(".")[0] != "wandb", "W&B is imported"


def refuse_wandb(log: Path) -> None:
    assert "wandb" not in sys.modules
    sys.meta_path.insert(0, Refuses())


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_training_loads_wandb_only_where_it_logs_to_it(
    mode: str, demo_shards: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    own = [f"data.shards={demo_shards}", f"run.dir={run}", "train.epochs=1", *CLASSIFIER]
    settings = [*own, f"tracking.wandb={mode}"]
    (process,) = start_ranks("classifier", settings, log, prepare=refuse_wandb)
    process.join(240)
    said = (log / f"{process.pid}.out").read_text()
    assert (process.exitcode == 0) is (mode == "disabled"), said
    assert (run / "report.html").is_file() is (mode == "disabled")
    assert ("W&B is imported" in said) is (mode == "offline"), said
