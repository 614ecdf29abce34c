"""Checkpoints that are whole or absent: a folder written under another name, then renamed.

`checkpoints/last` and `checkpoints/best` are files that hold the name of a checkpoint folder. One
rank writes for all: randomness is a function of the position, so no rank has a state of its own.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vocdist.atomic import fsync, remove_temporaries, replaced_when_done
from vocdist.errors import UserError

WEIGHTS = "model.safetensors"
TRAINING = "training.pt"
STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: Epochs finished.
        step: Optimizer steps done in the epoch under way.
        global_step: Optimizer steps done in all.
        samples_seen: Samples trained on in all.
        best_value: The best value so far of the metric that marks the best checkpoint.
        best_epoch: The epoch, counted from 1, after which it was reached; 0 before the first.
        global_batch: Samples of a step; the order of the samples depends on it.
        manifest_hash: Identity of the shards.
        wandb_run_id: W&B run to go on with.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    samples_seen: int = 0
    best_value: float = float("-inf")
    best_epoch: int = 0
    global_batch: int
    manifest_hash: str
    wandb_run_id: str | None = None

    def after_step(self, samples: int) -> Self:
        """One optimizer step further."""
        return replace(
            self,
            step=self.step + 1,
            global_step=self.global_step + 1,
            samples_seen=self.samples_seen + samples,
        )

    def after_epoch(self, value: float) -> Self:
        """At the start of the next epoch, this one having been measured as `value`."""
        done = replace(self, epoch=self.epoch + 1, step=0)
        if value > self.best_value:
            done = replace(done, best_value=value, best_epoch=done.epoch)
        return done


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `runs/<name>/checkpoints`.
        keep: How many of the latest stay, besides the best.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        """Nothing is touched before the first save."""
        self.folder = folder
        self._keep = keep

    def save(
        self, position: Position, model: nn.Module, training: Mapping[str, Any], *, best: bool
    ) -> None:
        """Write a checkpoint, point `last` (and `best`) to it, then remove old ones.

        Call on one process. `training` must be loadable by `torch.load(weights_only=True)`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.folder)
        final = self.folder / f"step-{position.global_step:08d}"
        with replaced_when_done(final) as temporary:
            temporary.mkdir()
            save_weights(model, temporary / WEIGHTS)
            torch.save(dict(training), temporary / TRAINING)
            (temporary / STATE).write_text(json.dumps(asdict(position), indent=1) + "\n")
            for path in temporary.iterdir():
                fsync(path)
        # In this order: a kill between the two repeats the epoch, and with it the decision.
        if best:
            self._point("best", final)
        self._point("last", final)
        self._prune()

    def last(self) -> Path | None:
        """The newest checkpoint's folder."""
        return self._follow("last")

    def best(self) -> Path | None:
        """The best checkpoint's folder."""
        return self._follow("best")

    def _point(self, name: str, target: Path) -> None:
        with replaced_when_done(self.folder / name) as temporary:
            temporary.write_text(target.name + "\n")

    def _follow(self, name: str) -> Path | None:
        pointer = self.folder / name
        if not pointer.is_file():
            return None
        target = self.folder / pointer.read_text().strip()
        if not (target / STATE).is_file():
            raise UserError(
                f"{pointer} names {target.name}, which is not whole: write the name of another "
                f"folder beside it into that file, or choose another run.dir"
            )
        return target

    def rewind(self, checkpoint: Path) -> None:
        """Make an earlier checkpoint of this run the last one; what came after it is removed."""
        later = [path for path in self.folder.glob("step-*") if path.name > checkpoint.name]
        if self.best() in later:
            (self.folder / "best").unlink()
        self._point("last", checkpoint)
        for path in later:
            shutil.rmtree(path)

    def _prune(self) -> None:
        pointed = {self.last(), self.best()}
        older = sorted(self.folder.glob("step-*"))[: -self._keep]
        for folder in (path for path in older if path not in pointed):
            shutil.rmtree(folder)


def load_position(checkpoint: Path) -> Position:
    """Read how far a checkpoint has come.

    Raises:
        UserError: The folder is not a checkpoint.
    """
    try:
        return Position(**json.loads((checkpoint / STATE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{checkpoint}: not a checkpoint of this version ({error})") from None


def load_training(checkpoint: Path) -> dict[str, Any]:
    """Read optimizer and meters of a checkpoint, tensors on the CPU.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = checkpoint / TRAINING
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen unrelated types for a bad file
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    return state


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's state dict as safetensors, each tensor contiguous in memory."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, path, dict(metadata or {}))


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_weights` wrote beside the tensors; empty when it wrote nothing.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as weights:
            return dict(weights.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def load_model(model: nn.Module, path: Path) -> None:
    """Read weights written by `save_weights` into a model of the same shape.

    Raises:
        UserError: The file is missing, damaged, or of another model.
    """
    try:
        state: dict[str, Tensor] = load_file(path)
        model.load_state_dict(state)
    except Exception as error:  # safetensors and torch raise unrelated types for a bad file
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be loaded into this model ({reason})") from None
