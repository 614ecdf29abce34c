"""Checkpoints: what one is made of, and the folder that keeps the last and the best."""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vocdist.errors import UserError
from vocdist.files.atomic import fsync, remove_temporaries, replaced_when_done
from vocdist.files.checked import sha256_once

WEIGHTS = "model.safetensors"
TRAINING = "training.pt"
STATE = "state.json"
# In the form of coreutils: `sha256sum --check SHA256SUMS` in the folder.
CHECKSUMS = "SHA256SUMS"


def write_files(
    folder: Path, state: Mapping[str, Any], model: nn.Module, training: Mapping[str, Any]
) -> None:
    """Write a checkpoint's files and wait until they are on the disk.

    `state` is plain JSON; `training` must be loadable by `torch.load(weights_only=True)`.
    Everything is made in memory, so that a full disk is a plain `OSError`.
    """
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    position = json.dumps(dict(state), indent=1) + "\n"
    contents = {WEIGHTS: _weights(model), TRAINING: buffer.getvalue(), STATE: position.encode()}
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items()]
    contents[CHECKSUMS] = "".join(sums).encode()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        fsync(folder / name)


def damage(checkpoint: Path) -> str | None:
    """What is missing from a checkpoint or differs from its checksums; None when it is whole.

    Each file is read once on a machine and start (`sha256_once`): this is asked four times by
    every rank.
    """
    try:
        lines = (checkpoint / CHECKSUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return f"{CHECKSUMS} cannot be read: {error.__class__.__name__}"
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (WEIGHTS, TRAINING, STATE):
        try:
            digest = sha256_once(checkpoint / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        if digest != sums.get(name):
            return f"{name} does not match {CHECKSUMS}"
    return None


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
    path.write_bytes(_weights(model, metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_weights` wrote beside the tensors; empty when it wrote nothing.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as weights:
            return dict(weights.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: no safetensors file, or a damaged one ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def load_model(model: nn.Module, path: Path) -> None:
    """Read weights written by `save_weights` into a model of the same shape.

    Raises:
        UserError: The file is missing, damaged, or of another model.
    """
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if differences := _differences(state, model.state_dict()):
        raise UserError(
            f"{path}: weights of another network ({'; '.join(differences)}): set model.* (and the "
            f"classes) to those that they were trained with"
        )
    model.load_state_dict(state)


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """How a file's tensors differ from a model's, a few words for each kind of difference."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    others = [
        f"{name}: {tuple(found[name].shape)} where {tuple(tensor.shape)} is expected"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "not of this model": unknown, "of another shape": others}
    return [f"{len(names)} {kind}, as {names[0]}" for kind, names in kinds.items() if names]


def _weights(model: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return save(state, dict(metadata or {}))


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
