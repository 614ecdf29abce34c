"""Checkpoints that are whole or absent: a folder written under another name, then renamed.

`checkpoints/last` and `checkpoints/best` are files that hold the name of a checkpoint folder. A
checkpoint counts only while its files are those of its `SHA256SUMS`. One rank writes for all:
randomness is a function of the position, so no rank has a state of its own.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from vocdist.atomic import remove_temporaries, replaced_when_done
from vocdist.errors import UserError
from vocdist.training.checkpoint_files import STATE, damage, write_files


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
        shards: What they hold, for people.
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
    shards: str = ""
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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_temporaries(self.folder)
            final = self._place(position.global_step)
            with replaced_when_done(final) as temporary:
                temporary.mkdir()
                write_files(temporary, asdict(position), model, training)
            # In this order: a kill between the two repeats the epoch, and with it the decision.
            if best:
                self._point("best", final)
            self._point("last", final)
        except OSError as error:
            raise UserError(
                f"{self.folder}: the checkpoint of step {position.global_step} cannot be written "
                f"({error.strerror}): free some space and start again: the run goes on from the "
                f"checkpoint before"
            ) from None
        self._prune()

    def last(self) -> Path | None:
        """The newest whole checkpoint; None before the first.

        Raises:
            UserError: There are checkpoints, and every one is damaged.
        """
        candidates = self._candidates()
        for folder in candidates:
            if damage(folder) is None:
                return folder
        if candidates:
            listed = "\n  ".join(f"{folder.name}: {damage(folder)}" for folder in candidates)
            raise UserError(
                f"{self.folder}: no checkpoint here is whole:\n  {listed}\nput back a copy of one, "
                f"or choose another run.dir"
            )
        return None

    def best(self) -> Path | None:
        """The best checkpoint's folder; None where there is none, or it is damaged."""
        folder = self._target("best")
        return folder if folder and damage(folder) is None else None

    def passed_over(self) -> list[str]:
        """What is wrong with the checkpoints that would be last and best, were they whole."""
        last, problems = self.last(), []
        if last and not self._target("last"):
            problems.append(f"{self.folder / 'last'} names no checkpoint")
        for folder in self._candidates():
            if folder == last:
                break
            problems.append(f"{folder} is damaged ({damage(folder)})")
        best = self._target("best")
        if last and best and best.name <= last.name and not self.best():
            problems.append(f"{best}, the best so far, is damaged ({damage(best)})")
        return problems

    def is_pointed_to(self, checkpoint: Path) -> bool:
        """Whether `last` names it."""
        return self._target("last") == checkpoint

    def mark_best(self, checkpoint: Path) -> None:
        """Point `best` to a checkpoint."""
        if self._target("best") != checkpoint:
            self._point("best", checkpoint)

    def _place(self, global_step: int) -> Path:
        """Where to write the checkpoint of a step; what `last` names stays until this one is there.

        A step has two when the run was stopped in its evaluation: before and after the measuring.
        """
        name, last = f"step-{global_step:08d}", self._target("last")
        for folder in sorted(self.folder.glob(f"{name}*")):
            if last and folder.name > last.name and folder != self._target("best"):
                shutil.rmtree(folder)  # of a run that was killed before it could point to it
        count = len(list(self.folder.glob(f"{name}*")))
        return self.folder / (f"{name}-{count + 1}" if count else name)

    def _point(self, name: str, target: Path) -> None:
        with replaced_when_done(self.folder / name) as temporary:
            temporary.write_text(target.name + "\n")

    def _target(self, name: str) -> Path | None:
        """The folder that a pointer names, whole or not; None where it names none."""
        pointer = self.folder / name
        named = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
        target = self.folder / (named or "nowhere")
        return target if target.is_dir() else None

    def _candidates(self) -> list[Path]:
        """The checkpoint that `last` names and those before it, newest first.

        Without that bound a run that was sent back would take what it had left behind.
        """
        folders, last = sorted(self.folder.glob("step-*"), reverse=True), self._target("last")
        return [folder for folder in folders if not last or folder.name <= last.name]

    def rewind(self, checkpoint: Path) -> None:
        """Make an earlier checkpoint of this run the last one; what came after it is removed."""
        later = [path for path in self.folder.glob("step-*") if path.name > checkpoint.name]
        if self.best() is None or self.best() in later:
            (self.folder / "best").unlink(missing_ok=True)
        self._point("last", checkpoint)
        for path in later:
            shutil.rmtree(path)

    def _prune(self) -> None:
        pointed = {self._target("last"), self._target("best")}
        for folder in self._candidates()[self._keep :]:
            if folder not in pointed:
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
