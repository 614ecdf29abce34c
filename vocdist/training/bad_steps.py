"""Steps that were not applied, as `non_finite.jsonl` keeps them: why, and with which samples."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NON_FINITE = "non_finite.jsonl"


@dataclass(frozen=True)
class BadStep:
    """A step that was not applied.

    Attributes:
        number: Its global step, counted from 1.
        norm: Norm of its gradient; None in fp16, where the scaler has that to itself.
        losses: (sample, loss) over all ranks, in the order of the samples.
    """

    number: int
    norm: float | None
    losses: list[tuple[int, float]]

    @property
    def cause(self) -> str:
        """What was wrong, in words."""
        bad = sum(not math.isfinite(loss) for _, loss in self.losses)
        if bad:
            return f"the loss of {bad} of its {len(self.losses)} samples is not finite"
        return f"its gradient is not finite (norm {self.norm})"


def write_bad_step(path: Path, step: BadStep, key_of: Callable[[int], str]) -> None:
    """Add a line of JSON: the step, and its samples with their keys and losses."""
    row = {
        "global_step": step.number,
        "cause": step.cause,
        "gradient_norm": _plain(step.norm),
        "samples": [
            {"key": key_of(index), "index": index, "loss": _plain(loss)}
            for index, loss in step.losses
        ],
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _plain(value: float | None) -> float | str | None:
    # JSON has no word for inf and NaN.
    return value if value is None or math.isfinite(value) else str(value)
