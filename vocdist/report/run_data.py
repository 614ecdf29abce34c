"""A run folder's content as plain values: what a page is made of."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vocdist.errors import UserError
from vocdist.runs.predictions import Example, Predictions

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunData:
    """One run.

    Attributes:
        name: Of its folder.
        config: Settings by dotted key.
        starts: Of each start that found another environment: what it found.
        rows: Of `metrics.jsonl`.
        results: Metrics of the best weights; None while the run is training.
        predictions: Of the val split, by the weights of the last evaluation.
        examples: The images among them that are shown.
    """

    name: str
    config: Mapping[str, Any]
    starts: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    results: Mapping[str, float] | None
    predictions: Predictions | None
    examples: Sequence[Example]

    @property
    def task(self) -> str:
        """`classifier` or `rpn`."""
        return str(self.config["task"])

    @property
    def reads_features(self) -> bool:
        """Its steps read cached features, not images; `auto` means so but on CUDA."""
        cache = self.config.get("features.cache", False)
        on_cuda = bool(self.starts) and "cuda" in str(self.starts[-1].get("device", ""))
        return cache is True or (cache == "auto" and not on_cuda)

    @property
    def epochs_done(self) -> int:
        """Epochs that were measured."""
        return int(max((row["epoch"] for row in self.rows if "val/loss" in row), default=0))

    @property
    def metrics(self) -> dict[str, float]:
        """The results, or those of the last epoch while there are none."""
        if self.results is not None:
            return dict(self.results)
        return last_metrics(self.rows)


def last_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """What the last epoch measured; empty before the first."""
    last = next((row for row in reversed(rows) if "val/loss" in row), {})
    return {k.partition("/")[2]: v for k, v in last.items() if k.startswith("val/")}


def read_rows(metrics_jsonl: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; a last line that a crash cut short is left out.

    Raises:
        UserError: Another line is none.
    """
    lines = metrics_jsonl.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"{metrics_jsonl}:{number}: not a JSON object") from None
    return rows


def points(
    rows: Iterable[Row], key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Epochs (N,) and values (N,) of a key, in the order of the steps.

    By step: a run that was resumed has logged some steps twice, and the later row counts.
    """
    by_step = {
        row["global_step"]: (row["epoch"], row[key]) for row in rows if row.get(key) is not None
    }
    found = np.array([by_step[step] for step in sorted(by_step)], dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
