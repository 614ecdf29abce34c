"""Saving a training and taking it up again: what `save` writes, `restore` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vocdist.distributed.processes import average_buffers, raise_together
from vocdist.errors import UserError
from vocdist.runs.checkpoint import WEIGHTS, Checkpoints, Position, load_model, load_training
from vocdist.training.guard import FiniteGuard
from vocdist.training.log import RunLog
from vocdist.training.optim import WeightAverage, load_optimizer_state


class Saver:
    """Writes the checkpoints of one training.

    Args:
        model: The task's, not wrapped.
        optimizer: As prepared by accelerate.
        average: Of the model's weights.
        guard: Counts skipped steps.
        log: Sums the losses of the epoch under way.
        accelerator: The run's.
        checkpoints: Where they are kept.

    Attributes:
        saved: The position that was saved or restored last; None before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage,
        guard: FiniteGuard,
        log: RunLog,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
    ) -> None:
        """Keep the parts."""
        self.saved: Position | None = None
        self._model = model
        self._optimizer = optimizer
        self._average = average
        self._guard = guard
        self._log = log
        self._accelerator = accelerator
        self._checkpoints = checkpoints

    def save(self, position: Position, *, best: bool) -> None:
        """Save the position and all that training goes on from (a collective).

        Raises:
            SharedError: The main process cannot write.
        """
        self._guard.check_steps()
        self.saved = position
        average_buffers(self._accelerator, self._model)
        logged = self._log.state_dict()
        failure = ""
        if self._accelerator.is_main_process:
            try:
                training = {**self._training_state(), **logged}
                # What was measured is what a checkpoint's weights file holds.
                with self._average.applied():
                    self._checkpoints.save(position, self._model, training, best=best)
            except UserError as error:
                failure = str(error)
        raise_together(self._accelerator, failure)

    def save_for_a_stop(self, position: Position) -> None:
        """Save what is not saved yet (a collective)."""
        # Of a finished training the model by now holds the best weights, not the last.
        if self.saved != position:
            self._guard.abandon_step()
            self.save(position, best=False)

    def restore(self, checkpoint: Path, position: Position) -> None:
        """Go on from the position that a checkpoint holds; call on every rank."""
        self.saved = position
        training = load_training(checkpoint)
        self._load_weights(checkpoint / WEIGHTS, training["live"])
        load_optimizer_state(self._optimizer, training["optimizer"])
        if self._accelerator.scaler is not None and training["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(training["scaler"])
        self._guard.skipped = training["skipped_steps"]
        self._log.load_state_dict(training)

    def load_best(self) -> bool:
        """Take over the best checkpoint's weights, when training is over; False: there is none.

        Then the model keeps what was measured last.
        """
        best = self._checkpoints.best()
        if best is not None:
            self._load_weights(best / WEIGHTS)
        else:
            self._average.keep()
        return best is not None

    def _load_weights(self, path: Path, live: Mapping[str, Tensor] | None = None) -> None:
        """Take over measured weights, and those that training goes on from (`live`)."""
        load_model(self._model, path)
        self._average.restore(live or {})

    def _training_state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "optimizer": self._optimizer.state_dict(),
            "live": self._average.live_parameters(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "skipped_steps": self._guard.skipped,
        }
