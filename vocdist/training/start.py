"""Where a training begins: anew, at a checkpoint, or not at all; the same on all ranks."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vocdist.config.file import config_differences, save_config
from vocdist.distributed.processes import gather_lists
from vocdist.errors import SharedError, UserError
from vocdist.files.lock import HeldByAnotherError, NoLocksError, held_alone
from vocdist.runs.checkpoint import STATE, Checkpoints, Position, damage, load_position
from vocdist.runs.folder import CONFIG, FINAL_WEIGHTS, RESULTS, begun_config, named_checkpoint
from vocdist.runs.tracking import METRICS, drop_rows_after, remembered_run_id
from vocdist.training.guard import NON_FINITE

_LOCK = ".lock"

# Settings that do not change what is computed but by the rounding of a device, or of features and
# pixels on their way to it: a run may go on with others, as on another machine.
FREE_TO_CHANGE = (
    "run",
    "runtime.device",
    "runtime.detect_anomaly",
    "runtime.cuda_graph",
    "runtime.deterministic",
    "runtime.collective_timeout_s",
    "tracking",
    "data.num_workers",
    "data.cache_dir",
    "data.cache_bytes",
    "data.resident",
    "features.cache",
    "features.folder",
    "features.max_gib",
    "data.decoded_cache",
    "train.resume",
    "train.non_finite",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "data.shards",  # the manifest is compared instead
)
# A run that goes on may have more epochs; ranks that begin together have as many.
CHANGED_LATER = (*FREE_TO_CHANGE, "train.epochs")
# Of the free ones, those that say what ranks do together: with others they would wait for each
# other in different places.
_DONE_TOGETHER = (
    "runtime.cuda_graph",
    "runtime.deterministic",
    "data.resident",
    "features.cache",
    "train.non_finite",
    "train.log_every",
    "train.save_every",
)


@dataclass(frozen=True)
class Start:
    """Where a training begins.

    Attributes:
        position: The first one, or that of the checkpoint.
        checkpoint: What to restore; None to begin anew.
        rewound: The checkpoint is not the one that the run folder names as its last.
        notes: What the user should know: which checkpoints are damaged, what is changed.
    """

    position: Position
    checkpoint: Path | None = None
    rewound: bool = False
    notes: tuple[str, ...] = ()


def plan_start(
    config: Any, checkpoints: Checkpoints, manifest_hash: str, shards: str = ""
) -> Start:
    """Decide what `train.resume` asks for; nothing is written yet.

    `shards` says what they hold. A damaged checkpoint is passed over for the one before, with a
    note.

    Raises:
        UserError: `never` over a run that is there, if only begun; a path that is no whole
            checkpoint, or of another run while `run.dir` holds one; other shards; or settings other
            than those the checkpoint was made with (the differences are listed).
    """
    batch = config.train.global_batch
    first = Position(global_batch=batch, manifest_hash=manifest_hash, shards=shards)
    resume, last = config.train.resume, checkpoints.last()
    begun = begun_config(type(config), config.run.dir)
    if resume == "never" and (last or begun):
        raise UserError(
            f"{config.run.dir}: holds a run and train.resume=never: choose another run.dir, delete "
            f"that folder, or let train.resume=auto go on with it"
        )
    chosen = last if resume in ("auto", "never") else _named_checkpoint(resume, checkpoints)
    if chosen is None:
        same = begun and not config_differences(begun, config, CHANGED_LATER)
        # Killed before its first checkpoint: the same rows come again, for the same W&B run.
        run_id = remembered_run_id(config.run.dir) if same else None
        return Start(replace(first, wandb_run_id=run_id))
    position = load_position(chosen)
    _check_same_run(config, position, chosen, first)
    best = checkpoints.best()
    lost = best is None or best.name > chosen.name
    if lost and not _is_best(position, chosen, checkpoints):
        # What was best so far is not in this folder, or lies behind the point of return.
        position = replace(position, best_value=float("-inf"), best_epoch=0)
    if chosen.parent != checkpoints.folder:
        # Another run's: its W&B run goes on without this one.
        position = replace(position, wandb_run_id=remembered_run_id(config.run.dir))
    rewound = not checkpoints.is_pointed_to(chosen)
    notes = [f"{note}: the one before it is used" for note in checkpoints.passed_over()]
    return Start(position, chosen, rewound, (*notes, *_note_on_epochs(config, position)))


def _check_same_run(config: Any, position: Position, chosen: Path, first: Position) -> None:
    """Refuse a checkpoint of other shards or settings than those of this start.

    Raises:
        UserError: They differ, and how.
    """
    if position.manifest_hash != first.manifest_hash:
        raise UserError(
            f"{chosen}: was trained on other shards:\n"
            f"  {position.shards} [manifest {position.manifest_hash[:12]}]"
            f" -> {first.shards} [manifest {first.manifest_hash[:12]}]\n"
            f"pass the data.shards it was begun with, or choose another run.dir"
        )
    least = position.epoch + (position.step > 0)
    if config.train.epochs < least:
        raise UserError(
            f"{chosen.parent.parent}: {position.epoch} epochs are trained"
            f"{' and one is begun' if position.step else ''}, and "
            f"train.epochs={config.train.epochs} asks for fewer: pass {least} or more, or choose "
            f"another run.dir"
        )
    begun = begun_config(type(config), chosen.parent.parent)
    differences = config_differences(begun, config, CHANGED_LATER) if begun else []
    if differences:
        listed = "\n  ".join(differences)
        raise UserError(
            f"{chosen.parent.parent}: holds a run that was begun with other settings:\n  {listed}\n"
            f"choose another run.dir, or delete that folder to begin anew"
        )


def _note_on_epochs(config: Any, position: Position) -> list[str]:
    """A line where a run is to have another number of epochs than it was begun with."""
    begun = begun_config(type(config), config.run.dir)
    if begun is None or begun.train.epochs == config.train.epochs:
        return []
    return [
        f"train.epochs {begun.train.epochs} -> {config.train.epochs}: from epoch "
        f"{position.epoch + 1} on, the learning rate follows a schedule of {config.train.epochs}"
    ]


def _named_checkpoint(resume: str, checkpoints: Checkpoints) -> Path:
    chosen = named_checkpoint(Path(resume)).resolve()
    if not (chosen / STATE).is_file():
        raise UserError(
            f"train.resume={resume}: not a checkpoint folder; they are in "
            f"{checkpoints.folder}/step-*, and 'auto' takes the last"
        )
    problem = damage(chosen)
    if problem:
        raise UserError(f"train.resume={resume}: is damaged ({problem}): take one that is whole")
    own = chosen.parent == checkpoints.folder.resolve()
    if not own and checkpoints.last():
        raise UserError(
            f"{checkpoints.folder.parent}: holds a run, and {resume} belongs to another: choose a "
            f"new run.dir to go on from it"
        )
    return checkpoints.folder / chosen.name if own else chosen


@contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Hold a run folder, made where it is missing; the hold ends with this process.

    Raises:
        UserError: Another training is at work in it, or it cannot be locked.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(held_alone(run_dir / _LOCK))
        except HeldByAnotherError as holder:
            raise UserError(
                f"{run_dir}: another training is at work here ({holder}): wait for it to end, stop "
                f"it, or choose another run.dir"
            ) from None
        except NoLocksError as error:
            raise UserError(
                f"{run_dir}: cannot be locked ({error}): choose a run.dir on a file system with "
                f"locks"
            ) from None
        with suppress(OSError):  # a full disk: others are told less
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{socket.gethostname()}:{os.getpid()}".encode())
        yield


def prepare_folder(config: Any, checkpoints: Checkpoints, start: Start) -> None:
    """Make the run folder ready for a start; call on one process."""
    run_dir = config.run.dir
    save_config(config, run_dir / CONFIG)
    done = start.position
    for name in (METRICS, NON_FINITE):
        drop_rows_after(run_dir / name, done.global_step if start.checkpoint else -1, done.epoch)
    if start.rewound and start.checkpoint and checkpoints.last():
        checkpoints.rewind(start.checkpoint)
    # Of a run that was sent back, or is to have more epochs.
    for name in (RESULTS, FINAL_WEIGHTS):
        (run_dir / name).unlink(missing_ok=True)
    if start.checkpoint and _is_best(start.position, start.checkpoint, checkpoints):
        # It may have been cut off before `best` was written.
        checkpoints.mark_best(start.checkpoint)


def _is_best(position: Position, checkpoint: Path, checkpoints: Checkpoints) -> bool:
    """Whether a checkpoint of this run is itself the best so far."""
    own = checkpoint.parent == checkpoints.folder
    return own and position.step == 0 < position.epoch == position.best_epoch


@dataclass(frozen=True)
class RankStart:
    """Where one rank would begin.

    Attributes:
        rank: Its number.
        host: Its machine.
        config: With all settings.
        start: Its position and checkpoint.
        finished: It sees the results of a finished run.
    """

    rank: int
    host: str
    config: Any
    start: Start
    finished: bool


def check_ranks_agree(
    accelerator: Accelerator, config: Any, start: Start, *, finished: bool
) -> None:
    """Go on when all ranks begin at the same place (a collective).

    Each has read its shards and run folder by itself; where two hosts do not see the same ones,
    the ranks would wait for each other until `runtime.collective_timeout_s` is over.

    Raises:
        SharedError: They differ, in what, and how that is mended; on every rank.
    """
    own = RankStart(accelerator.process_index, socket.gethostname(), config, start, finished)
    first, *others = gather_lists(accelerator, [own])
    for other in others:
        difference = _difference(first, other)
        if difference:
            raise SharedError(difference)


def _difference(first: RankStart, other: RankStart) -> str:
    """What keeps two ranks from training together; empty: nothing."""
    who = f"rank {first.rank} ({first.host}) and rank {other.rank} ({other.host})"
    free = [name for name in FREE_TO_CHANGE if name not in _DONE_TOGETHER]
    settings = config_differences(first.config, other.config, free)
    if settings:
        return f"{who} were started with other settings: {'; '.join(settings)}: pass the same"
    if first.start.position.manifest_hash != other.start.position.manifest_hash:
        return (
            f"{who} have other shards in data.shards: {first.config.data.shards} and "
            f"{other.config.data.shards}: copy one folder to all hosts, or share it"
        )
    if _place(first) == _place(other):
        return ""
    return (
        f"{who} do not begin at the same place: {_seen_by(first)}, {_seen_by(other)}: put run.dir "
        f"on a file system that all hosts share, and pass the same run.dir everywhere"
    )


def _place(seen: RankStart) -> tuple[object, ...]:
    start = seen.start
    return start.position, start.checkpoint and start.checkpoint.name, start.rewound, seen.finished


def _seen_by(seen: RankStart) -> str:
    what = "no checkpoint" if seen.start.checkpoint is None else seen.start.checkpoint.name
    return f"rank {seen.rank} sees {what} in {seen.config.run.dir}"
