"""Several runs on one page: what was set differently, how they went, what came out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vocdist.errors import UserError
from vocdist.metrics.tables import measured_classes
from vocdist.report.page import render, state
from vocdist.report.run_data import RunData
from vocdist.report.training_view import COLORS, compared_panels
from vocdist.tasks.task import task_class

# A figure that is better when it is lower.
LOWER = ("loss", "objectness", "box")
# Figures that are no achievement.
COUNTED = ("samples", "boxes", "epoch", "classes_", "proposals", "threshold", "mAP_prior")
# Figures of single classes.
OF_CLASSES = ("ap/", "ap_voc/", "f1/", "f1_tuned/", "threshold/")
# What tells runs apart by itself.
OBVIOUS = ("run.dir", "train.resume")


@dataclass(frozen=True)
class Line:
    """One figure of every run.

    Attributes:
        key: Of the figure.
        name: What the page calls it.
        values: One of each run; None where it has none.
        best: The runs that have the best of different values.
        classes: Of each run, how many classes a mean is over, if not over all.
    """

    key: str
    name: str
    values: Sequence[float | None]
    best: Sequence[int]
    classes: Sequence[str]


def comparison_page(runs: Sequence[RunData]) -> str:
    """The page of two runs or more.

    Raises:
        UserError: Runs of different tasks, whose figures have nothing in common.
    """
    tasks = {run.task for run in runs}
    if len(tasks) > 1:
        raise UserError(
            f"runs of different tasks ({', '.join(sorted(tasks))}) have no figure in common: "
            f"compare runs of one task"
        )
    names = unambiguous([run.name for run in runs])
    task = task_class(tasks.pop())
    tiles = [(key, name) for key, name, _, _ in task.tiles]
    aps = sorted({key for run in runs for key in run.metrics if key.startswith("ap/")})
    return render(
        "comparison.html",
        title=" · ".join(names),
        kind=task.title,
        runs=[
            (number % COLORS, name, state(run))
            for number, (name, run) in enumerate(zip(names, runs, strict=True))
        ],
        settings=differences([run.config for run in runs], OBVIOUS),
        environments=differences([_environment(run) for run in runs], ("started", "command")),
        figures=[_line(runs, key, name) for key, name in (*tiles, *_more(runs, tiles))],
        classes=[_line(runs, key, key.partition("/")[2]) for key in aps],
        panels=compared_panels(runs),
    )


def differences(
    settings: Sequence[Any], left_out: Sequence[str] = ()
) -> list[tuple[str, list[Any]]]:
    """Keys whose values are not the same everywhere, with each one's value."""
    keys = list(dict.fromkeys(key for one in settings for key in one))
    rows = [(key, [one.get(key) for one in settings]) for key in keys if key not in left_out]
    return [(key, values) for key, values in rows if any(v != values[0] for v in values)]


def unambiguous(names: Sequence[str]) -> list[str]:
    """Names, numbered where two are the same."""
    return [
        f"{name} ({number})" if names.count(name) > 1 else name
        for number, name in enumerate(names, start=1)
    ]


def _environment(run: RunData) -> dict[str, Any]:
    last = run.starts[-1] if run.starts else {}
    packages = last.get("packages") or {}
    commit = (last.get("git") or {}).get("commit")
    plain = {key: value for key, value in last.items() if key not in ("packages", "git")}
    return {**plain, **packages, "git commit": commit}


def _more(runs: Sequence[RunData], tiles: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The other figures, under their own keys; those of single classes have their own table."""
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    shown = {key for key, _ in tiles}
    chosen = [
        key
        for key in keys
        if key not in shown
        and not key.startswith(OF_CLASSES)
        and not key.endswith(("/grid", "/random"))
    ]
    return [(key, key) for key in chosen]


def _line(runs: Sequence[RunData], key: str, name: str) -> Line:
    values = [run.metrics.get(key) for run in runs]
    known = [value for value in values if value is not None]
    measured = not key.startswith(COUNTED)
    best: list[int] = []
    if measured and len(known) > 1 and len(set(known)) > 1:
        target = min(known) if key in LOWER else max(known)
        best = [i for i, value in enumerate(values) if value == target]
    return Line(key, name, values, best, [measured_classes(key, run.metrics) for run in runs])
