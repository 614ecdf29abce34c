"""Throughput, and the share of the time that a step waits for its data."""

import time
from collections.abc import Iterator

import torch

from vocdist.data.batch import Batch


class StepClock:
    """Times the gaps between batches, over the steps since the last `read`."""

    def __init__(self) -> None:
        """Start now."""
        self.restart()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, counting the time spent in waiting for each."""
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            if batch.ends_step:
                self._samples += batch.step_samples
                self._steps += 1
            yield batch

    def read(self) -> dict[str, float]:
        """`perf/images_per_s` over all ranks, `perf/steps_per_s`, `perf/data_wait`; start anew.

        The last is the share of the time that was spent in waiting.
        """
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        rates = {
            "perf/images_per_s": self._samples / elapsed,
            "perf/steps_per_s": self._steps / elapsed,
            "perf/data_wait": self._waited / elapsed,
        }
        self.restart()
        return rates

    def restart(self) -> None:
        """Forget what was timed: call where steps begin after something else was done."""
        self._started = time.perf_counter()
        self._waited = 0.0
        self._samples = 0
        self._steps = 0


def gpu_memory(device: torch.device) -> dict[str, float]:
    """`perf/gpu_memory_gib`: the most that this process's tensors have taken so far, on CUDA."""
    if device.type != "cuda":
        return {}
    return {"perf/gpu_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
