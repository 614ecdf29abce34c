"""Where a run's numbers go: `metrics.jsonl` always, Weights & Biases as configured."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vocdist.atomic import replaced_when_done
from vocdist.wandb_run import picture, start_run, whereabouts

METRICS = "metrics.jsonl"


class Tracker:
    """Writes rows `{"global_step": …, "epoch": …, name: value, …}`, on one process.

    Args:
        run_dir: The run's folder, which gives the W&B run its name.
        mode: `auto`, `online`, `offline` or `disabled`.
        project: W&B project.
        config: Shown and searchable in W&B.
        run_id: A W&B run to go on with.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        mode: str,
        project: str,
        config: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        """Open the file and, unless disabled, start the W&B run."""
        self._file = (run_dir / METRICS).open("a", encoding="utf-8")
        self._run = start_run(
            mode,
            project=project,
            name=run_dir.name,
            folder=run_dir,
            config=config,
            run_id=run_id,
        )
        if self._run is None:
            return
        # W&B drops rows whose own step is below the last one: plot against ours instead.
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")

    @property
    def run_id(self) -> str | None:
        """Id of the W&B run; None when disabled."""
        return self._run.id if self._run else None

    @property
    def whereabouts(self) -> str:
        """One line for the user: where the W&B run is, and how to upload it."""
        return whereabouts(self._run)

    def log(self, row: Mapping[str, float | int]) -> None:
        """Write one row; it must hold `global_step`."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._run:
            self._run.log(dict(row))

    def log_pictures(self, pictures: Mapping[str, Path], global_step: int) -> None:
        """Send picture files to W&B."""
        if self._run:
            images = {name: picture(path) for name, path in pictures.items()}
            self._run.log({**images, "global_step": global_step})

    def __enter__(self) -> Self:
        """For `with`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close both, marking the W&B run as failed after an exception."""
        try:
            self._file.close()
        except OSError:
            # On a full disk what could not be written before cannot be now.
            if error is None:
                raise
        if self._run:
            self._run.finish(exit_code=0 if error is None else 1)


class NullTracker(Tracker):
    """Takes rows and keeps none: for all processes but the main one."""

    def __init__(self) -> None:
        """Write where nothing stays."""
        self._file = open(os.devnull, "a", encoding="utf-8")  # noqa: SIM115 (closed on exit)
        self._run = None


def drop_rows_after(run_dir: Path, global_step: int) -> None:
    """Forget rows that a killed run wrote behind its last checkpoint: they will be made again."""
    path = run_dir / METRICS
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the half line of a killed writer
        if row["global_step"] <= global_step:
            kept.append(line + "\n")
    with replaced_when_done(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
