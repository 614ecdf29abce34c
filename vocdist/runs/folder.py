"""What lies where in `runs/<name>/`: its config, its weights, its results."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from vocdist.config import TaskConfig
from vocdist.config.file import load_config, read_yaml
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.runs.checkpoint import WEIGHTS, Checkpoints

Config = TypeVar("Config", bound=TaskConfig)

CONFIG = "config.yaml"
FINAL_WEIGHTS = "model.safetensors"
RESULTS = "results.json"
CHECKPOINTS = "checkpoints"
# Files there that name a checkpoint.
POINTERS = ("best", "last")


def begun_config(config_type: type[Config], run_dir: Path) -> Config | None:
    """The settings a run folder was begun with; None when there is no run.

    Raises:
        UserError: It holds a run of the other task.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        return None
    task = task_of(run_dir)
    own = next(field.default for field in fields(config_type) if field.name == "task")
    if task != own:
        raise UserError(f"{run_dir}: holds a run of another task ({task}): choose another run.dir")
    return load_config(config_type, path)


def task_of(run_dir: Path) -> str:
    """The name of a run's task: `classifier`, `rpn` or that of another.

    Raises:
        UserError: The folder is not a run.
    """
    require_run(run_dir)
    return str(read_yaml(run_dir / CONFIG).get("task"))


def require_run(run_dir: Path) -> None:
    """Refuse what is no run folder.

    Raises:
        UserError: It is none; where it lies in one, that is named.
    """
    if (run_dir / CONFIG).is_file():
        return
    for folder in run_dir.parents[:2]:
        if (folder / CONFIG).is_file():
            raise UserError(f"{run_dir}: lies in the run {folder}: pass that")
    raise UserError(f"{run_dir}: not a run (no {CONFIG}); train one with scripts/train_*.py")


def run_around(place: Path) -> Path | None:
    """The run that a place is, or whose weights or checkpoints it is; None: of no run.

    Other files are of no run, wherever they lie: a project's own folder may hold a `config.yaml`.
    """
    if place.is_file() and place.name not in (FINAL_WEIGHTS, WEIGHTS, *POINTERS):
        return None
    folder = place.parent if place.is_file() else place
    for above in (folder, folder.parent):
        if above.name == CHECKPOINTS:
            folder = above.parent
            break
    return folder if (folder / CONFIG).is_file() else None


def run_weights(run_dir: Path) -> Path:
    """A run's final weights, or its best checkpoint's while it is still training.

    Raises:
        UserError: The folder is not a run, or there are no weights yet.
    """
    if (run_dir / FINAL_WEIGHTS).is_file():
        return run_dir / FINAL_WEIGHTS
    best = Checkpoints(run_dir / CHECKPOINTS, keep=1).best()
    if best is not None:
        return best / WEIGHTS
    task = task_of(run_dir)
    raise UserError(f"{run_dir}: a {task} run without weights yet: let an epoch finish first")


def weights_file(place: Path) -> Path:
    """The file of the weights that a path stands for.

    A file stands for itself, a run for its final weights (see `run_weights`), and so does the
    folder of its checkpoints; a checkpoint, or `best` or `last` that names one, for its weights.

    Raises:
        UserError: There is no such thing, or there are no weights yet.
    """
    named = named_checkpoint(place)
    if named != place:
        return named / WEIGHTS
    if place.is_file():
        return place
    if place.name == CHECKPOINTS and (place.parent / CONFIG).is_file():
        return run_weights(place.parent)
    if (place / WEIGHTS).is_file():
        return place / WEIGHTS
    if not place.exists():
        raise UserError(f"{place}: no such file or run")
    return run_weights(place)


def named_checkpoint(place: Path) -> Path:
    """The checkpoint's folder that `best` or `last` names; any other place as it is."""
    if place.name not in POINTERS or not place.is_file():
        return place
    named = place.parent / place.read_text(encoding="utf-8", errors="replace").strip()
    return named if named.is_dir() and named != place.parent else place


def named_weights(weights: str) -> str:
    """`model.weights` with the file that a run or a checkpoint stands for.

    Raises:
        UserError: It is a path, and there is nothing.
    """
    if weights in ("none", "imagenet"):
        return weights
    if not Path(weights).exists():
        raise UserError(
            f"model.weights={weights}: no such file or run; pass a path, 'imagenet' or 'none'"
        )
    return str(weights_file(Path(weights)))


def save_results(results: Mapping[str, float], path: Path) -> None:
    """Write flat metrics as JSON."""
    with replaced_when_done(path) as temporary:
        temporary.write_text(json.dumps(dict(results), indent=1) + "\n", encoding="utf-8")


def load_results(path: Path) -> dict[str, float]:
    """Read what `save_results` wrote."""
    results: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return results
