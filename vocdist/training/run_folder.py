"""What lies where in `runs/<name>/`, and whether a start there begins, goes on, or is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vocdist.config_file import config_differences, load_config
from vocdist.errors import UserError
from vocdist.training.checkpoint import STATE, Checkpoints, Position, load_position

CONFIG = "config.yaml"
FINAL_WEIGHTS = "model.safetensors"
RESULTS = "results.json"
CHECKPOINTS = "checkpoints"

# Settings that do not change what is computed, so a run may go on with others.
FREE_TO_CHANGE = (
    "run",
    "runtime.device",
    "tracking",
    "data.num_workers",
    "train.resume",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "train.accumulate",
)


def checkpoint_to_resume(config: Any, checkpoints: Checkpoints) -> Path | None:
    """The checkpoint that `train.resume` asks for; None to begin.

    Raises:
        UserError: `never` over a run that is there, a path that is no checkpoint, or `auto` with
            settings other than those the run was begun with (the differences are listed).
    """
    resume = config.train.resume
    if resume not in ("auto", "never"):
        chosen = Path(resume)
        if not (chosen / STATE).is_file():
            raise UserError(
                f"train.resume={resume}: not a checkpoint folder; they are in "
                f"{checkpoints.folder}/step-*, and 'auto' takes the last"
            )
        return chosen
    last = checkpoints.last()
    run_dir = config.run.dir
    if last is None:
        return None
    if resume == "never":
        raise UserError(
            f"{run_dir}: holds a run and train.resume=never: choose another run.dir, delete that "
            f"folder, or let train.resume=auto go on with it"
        )
    begun_with = load_config(type(config), run_dir / CONFIG)
    differences = config_differences(begun_with, config, FREE_TO_CHANGE)
    if differences:
        listed = "\n  ".join(differences)
        raise UserError(
            f"{run_dir}: holds a run that was begun with other settings:\n  {listed}\n"
            f"choose another run.dir, or delete that folder to begin anew"
        )
    return last


def position_to_resume(checkpoint: Path, manifest_hash: str, global_batch: int) -> Position:
    """The position of a checkpoint, if the shards and the order of samples are still the same.

    Raises:
        UserError: They are not.
    """
    position = load_position(checkpoint)
    if position.manifest_hash != manifest_hash:
        raise UserError(
            f"{checkpoint}: was trained on other shards: pass the data.shards it was begun with, "
            f"or choose another run.dir"
        )
    if position.global_batch != global_batch:
        raise UserError(
            f"{checkpoint}: was trained with train.global_batch={position.global_batch}, not "
            f"{global_batch}: the order of samples depends on it"
        )
    return position


def save_results(results: Mapping[str, float], path: Path) -> None:
    """Write flat metrics as JSON."""
    path.write_text(json.dumps(dict(results), indent=1) + "\n", encoding="utf-8")


def load_results(path: Path) -> dict[str, float]:
    """Read what `save_results` wrote."""
    results: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return results
