"""Weights & Biases: starting a run, and what goes into it besides rows.

Trainings and conversions both use it, so it knows neither.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

Run = wandb.Run


def start_run(
    mode: str,
    *,
    project: str,
    name: str,
    folder: Path | None,
    config: Mapping[str, Any],
    run_id: str | None = None,
) -> Run | None:
    """Start a run, or go on with that of `run_id`; None when disabled.

    Args:
        mode: `auto` (online when logged in, else offline), `online`, `offline` or `disabled`.
        project: W&B project.
        name: Of the run.
        folder: Where its files are kept; None: the working folder.
        config: Shown and searchable in W&B.
        run_id: Of a run to go on with.
    """
    if mode == "auto":
        # No prompt and no request: the user's own word, else a look for credentials.
        logged_in = wandb.login(prompt=False, verify=False)
        mode = os.environ.get("WANDB_MODE", "online" if logged_in else "offline")
    if mode == "disabled":
        return None
    settings = wandb.Settings(silent=True, console="off")
    options: dict[str, Any] = {"project": project, "name": name, "dir": folder, "id": run_id}
    options |= {"config": dict(config), "resume": "allow", "settings": settings}
    try:
        return wandb.init(mode=mode, **options)  # type: ignore[arg-type]
    except wandb.Error as error:
        # No network is no reason not to work.
        print(f"W&B cannot be reached ({error}): this run is logged offline")
        return wandb.init(mode="offline", **options)


def whereabouts(run: Run | None, earlier: Sequence[Path] = ()) -> str:
    """One line for the user: where the run is, and how to upload it, `earlier` folders included."""
    if run is None:
        return "W&B: disabled"
    if run.offline:
        folder = Path(run.settings.sync_dir)
        folders = [*(path for path in earlier if path.name != folder.name), folder]
        return f"W&B: offline (upload it with: wandb sync {' '.join(map(str, folders))})"
    return f"W&B: {run.url}"


def finish_run(run: Run, exit_code: int) -> None:
    """End a run, and wait for all of it to be written."""
    run.finish(exit_code=exit_code)
    # Until W&B's own process has ended, the last rows may not be in its file.
    wandb.teardown()


def picture(path: Path) -> wandb.Image:
    """A picture file as a value of a row."""
    return wandb.Image(str(path))


def log_data_set(
    run: Run,
    name: str,
    *,
    files: Sequence[Path],
    references: Mapping[str, str],
    metadata: Mapping[str, Any],
) -> None:
    """Log an artifact of type `dataset`.

    Args:
        run: Which logs it.
        name: Of the artifact; what W&B does not take in a name becomes `-`.
        files: Copied, and uploaded with it.
        references: Name in the artifact -> URL of what stays where it is. Their content is not
            read: a file that states their hashes is to be among `files`.
        metadata: Shown and searchable in W&B.
    """
    artifact = wandb.Artifact(
        re.sub(r"[^\w.-]", "-", name, flags=re.ASCII), type="dataset", metadata=dict(metadata)
    )
    for path in files:
        artifact.add_file(str(path))
    for member, url in references.items():
        artifact.add_reference(url, name=member, checksum=False)
    run.log_artifact(artifact)
