"""`metrics.jsonl` and the W&B run beside it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vocdist.errors import Interrupted, ProcessLost
from vocdist.files.atomic import replaced_when_done

if TYPE_CHECKING:
    from vocdist.runs.wandb import OfflineRun, Run

METRICS = "metrics.jsonl"
RUN_ID = "wandb/run-id"

# Rows that one step may have in W&B: its own, its epoch's, the pictures at the end.
_ROWS_PER_STEP = 3
_EPOCH_ROW, _PICTURES_ROW = 1, 2
# An interrupted run leaves within seconds, be the upload complete or not.
_LAST_UPLOAD_S = 10
_NOTHING: Mapping[str, Any] = {}


class Tracker:
    """Writes rows `{"global_step": …, "epoch": …, name: value, …}`, on one process.

    Args:
        run_dir: The run's folder, which gives the W&B run its name.
        mode: `auto`, `online`, `offline` or `disabled`.
        project: W&B project; None: W&B's own variable, else `vocdist`.
        config: Shown and searchable in W&B.
        run_id: A W&B run to go on with.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        mode: str,
        project: str | None,
        config: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        """Unless disabled, start the W&B run, and open the file.

        Raises:
            UserError: W&B refuses a setting, see `start_run`.
        """
        self._run_dir = run_dir
        self._run: Run | None = None
        if mode != "disabled":
            # Imported here, as below: a run without W&B does not load it.
            from vocdist.runs.wandb import start_run

            self._run = start_run(
                mode,
                project=project,
                name=run_dir.name,
                folder=run_dir,
                config=config,
                run_id=run_id,
            )
        self._file = (run_dir / METRICS).open("a", encoding="utf-8")
        if self._run is None:
            return
        remember_run_id(run_dir, self._run.id)
        # W&B's own step only tells rows apart: plot against ours instead.
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")
        self._next_step = self._run.starting_step
        if self._run.offline:
            self._next_step = max((run.next_step for run in self._offline_runs()), default=0)
        self._send_what_was_lost()

    @property
    def run(self) -> "Run | None":
        """The W&B run; None when disabled."""
        return self._run

    @property
    def run_id(self) -> str | None:
        """Id of the W&B run; None when disabled."""
        return self._run.id if self._run else None

    @property
    def location(self) -> str:
        """One line for the user: where the W&B run is, and how to upload it."""
        if self._run is None:
            return "W&B: disabled"
        from vocdist.runs.wandb import describe_location

        return describe_location(self._run, [run.folder for run in self._offline_runs()])

    def log(self, row: Mapping[str, float | int]) -> None:
        """Write one row; it must hold `global_step`."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._send(row)

    def log_pictures(
        self, pictures: Mapping[str, Path], global_step: int, others: Mapping[str, Any] = _NOTHING
    ) -> None:
        """Send picture files to W&B, and other values that are not for the file."""
        if self._run:
            from vocdist.runs.wandb import picture

            images = {name: picture(path) for name, path in pictures.items()}
            self._send({**images, **others, "global_step": global_step}, _PICTURES_ROW)

    def _offline_runs(self) -> "list[OfflineRun]":
        """This run's folders, of all its starts."""
        if self._run is None or not self._run.offline:
            return []
        from vocdist.runs.wandb import offline_runs

        return offline_runs(self._run_dir, self._run.id)

    def _send(self, row: Mapping[str, Any], place: int = 0) -> None:
        """Give W&B a row that it does not hold yet."""
        if not place and any(name.startswith("val/") for name in row):
            place = _EPOCH_ROW
        step = row["global_step"] * _ROWS_PER_STEP + place
        if self._run and step >= self._next_step:
            self._run.log(dict(row), step=step, commit=True)

    def _send_what_was_lost(self) -> None:
        """Rows are in the file at once, in W&B a while later: a kill may have come between."""
        for line in (self._run_dir / METRICS).read_text(encoding="utf-8").splitlines():
            self._send(json.loads(line))

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both, marking the W&B run as preempted or failed after an exception."""
        try:
            self._file.close()
        except OSError:
            # On a full disk what could not be written before cannot be now.
            if error is None:
                raise
        if self._run is None:
            return
        from vocdist.runs.wandb import finish_run

        if not isinstance(error, Interrupted | ProcessLost):
            finish_run(self._run, exit_code=0 if error is None else 1)
            return
        self._run.mark_preempting()
        last = Thread(target=finish_run, args=(self._run, 1), daemon=True)
        last.start()
        last.join(_LAST_UPLOAD_S)


class NullTracker(Tracker):
    """Takes rows and keeps none: for all processes but the main one."""

    def __init__(self) -> None:
        """Write where nothing stays."""
        self._file = open(os.devnull, "a", encoding="utf-8")  # noqa: SIM115 (closed on exit)
        self._run = None


def drop_rows_after(path: Path, global_step: int, epoch: int) -> None:
    """Forget rows that a killed run wrote behind its last checkpoint: they will be made again.

    `epoch` counts the finished ones: a run that was stopped in an evaluation makes it again.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the half line of a killed writer
        unmeasured = row.get("epoch", 0) > epoch and any(name.startswith("val/") for name in row)
        if row["global_step"] <= global_step and not unmeasured:
            kept.append(line + "\n")
    with replaced_when_done(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def remember_run_id(run_dir: Path, run_id: str) -> None:
    """Keep the W&B run's id for a start that finds no checkpoint, which would hold it."""
    path = run_dir / RUN_ID
    path.parent.mkdir(exist_ok=True)
    with replaced_when_done(path) as temporary:
        temporary.write_text(run_id + "\n", encoding="utf-8")


def remembered_run_id(run_dir: Path) -> str | None:
    """What `remember_run_id` kept; None without."""
    path = run_dir / RUN_ID
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
