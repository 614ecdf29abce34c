"""Going on together: all ranks stop at the same step, and notice when one of them is gone."""

from collections.abc import Iterator
from datetime import timedelta

import torch
from accelerate import Accelerator
from torch import distributed

from vocdist.data.batch import Batch
from vocdist.distributed.preemption import StopRequest


class StopAgreed(Exception):  # noqa: N818 (not an error)
    """All ranks have agreed to stop, at the same step."""


class Agreement:
    """Passes batches on for as long as no rank was asked to stop.

    Among several ranks it costs one all-reduce of two numbers between the hosts' CPUs for each
    part of a step: the devices are not waited for. On a single rank it costs nothing.

    Args:
        accelerator: Says how many ranks there are.
        stop: What this rank was asked for.
        timeout_s: Seconds after which a rank that does not answer is given up.
    """

    def __init__(self, accelerator: Accelerator, stop: StopRequest, timeout_s: float) -> None:
        """Make a group of CPUs beside the devices' (a collective)."""
        self._stop = stop
        self._group: distributed.ProcessGroup | None = None
        if accelerator.num_processes > 1:
            timeout = timedelta(seconds=timeout_s)
            group = distributed.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, distributed.ProcessGroup)  # this rank is in it
            self._group = group

    def training(self, batches: Iterator[Batch], steps: int) -> Iterator[Batch]:
        """Pass on the parts of `steps` steps.

        The ranks agree before each part, since it may have collectives in it (BatchNorm's, DDP's):
        one that was cut short while it waited for its data has left no other alone in there. All
        have equally many parts.

        Raises:
            StopAgreed: A rank was asked to stop; the step under way is not taken.
        """
        for batch in self._stop.until_requested(batches):
            self._agree()
            steps -= batch.ends_step
            yield batch
        if steps:
            self._agree()

    def evaluation(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass on a rank's batches, of which another rank may have fewer or more.

        Raises:
            StopAgreed: A rank was asked to stop.
        """
        own = self._stop.until_requested(batches)
        while True:
            batch = next(own, None)
            if not self._agree(busy=batch is not None):
                return
            if batch is not None:
                yield batch

    def _agree(self, *, busy: bool = True) -> bool:
        """Whether any rank is busy (a collective).

        Raises:
            StopAgreed: A rank was asked to stop.
        """
        asked = self._stop.requested
        if self._group is not None:
            answers = torch.tensor([asked, busy], dtype=torch.uint8)
            distributed.all_reduce(answers, distributed.ReduceOp.MAX, group=self._group)
            asked, busy = (bool(answer) for answer in answers)
        if asked:
            self._stop.request("another process")
            self._stop.mark_agreed()
            raise StopAgreed
        return busy
