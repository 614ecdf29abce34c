"""One live line on the terminal while a run trains and measures; nothing where output is piped."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Never, TextIO

from tqdm import tqdm

from vocdist.data.batch import Batch

_BAR = "{desc} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt}{postfix}"


class ProgressLine:
    """The line of the main process; on the others, and without a terminal, it writes nothing.

    It has no color, so there is none for NO_COLOR to turn off.

    Args:
        shown: Whether this is the main process.
        file: Where the line stands.
    """

    def __init__(self, *, shown: bool, file: TextIO | None = None) -> None:
        """Show nothing yet."""
        self._file = file or sys.stderr
        self._shown = shown and self._file.isatty()
        self._bar: tqdm[Never] | None = None

    @contextmanager
    def epoch(self, name: str, *, steps: int, done: int) -> Iterator[None]:
        """Show the steps of an epoch, of which `done` were made before."""
        with self._line(name, steps, done) as self._bar:
            yield
        self._bar = None

    def step(self) -> None:
        """Move on by one step."""
        if self._bar is not None:
            self._bar.update()

    def tell(self, row: Mapping[str, float], *, steps_left: int) -> None:
        """Show a logged row: loss, rate, waiting, and the time that `steps_left` will take."""
        if self._bar is None:
            return
        loss = f", loss {row['train/loss']:.4f}" if "train/loss" in row else ""
        left = tqdm.format_interval(steps_left / max(row["perf/steps_per_s"], 1e-9))
        self._bar.set_postfix_str(
            f"{row['perf/images_per_s']:.0f} images/s, waiting for data "
            f"{row['perf/data_wait']:.0%}{loss}, {left} left"
        )

    def measuring(self, batches: Iterator[Batch], samples: int) -> Iterator[Batch]:
        """Pass batches on, showing how many of this rank's `samples` are done."""
        with self._line("validation", samples, 0) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch.indices))

    def _line(self, name: str, total: int, done: int) -> "tqdm[Never]":
        return tqdm(
            desc=name,
            total=total,
            initial=done,
            leave=False,
            file=self._file,
            disable=not self._shown,
            bar_format=_BAR,
            dynamic_ncols=True,
        )
