"""Where the time of training steps goes: waiting for data, forward, backward, optimizer."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

PHASES = ("data wait", "forward", "backward", "optimizer", "other")


class PhaseTimer:
    """Seconds per phase, from the first call after `begin`; each ends by waiting for the device."""

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start at zero."""
        self._device, self._clock = device, clock
        self.begin()

    def begin(self) -> None:
        """Forget what was timed; the time starts with the next call, not within one."""
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._started: float | None = None

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; `other` is what is left of the time since `begin`."""
        self._wait_for_device()
        now = self._clock()
        total = now - (now if self._started is None else self._started)
        return {**self._spent, "other": max(0.0, total - sum(self._spent.values()))}

    def call(self, phase: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, its time counted as `phase`."""
        # Work that was sent to the device before belongs to the phase that sent it.
        self._wait_for_device()
        asked = self._clock()
        begun = self._started = asked if self._started is None else self._started
        try:
            return function(*args, **kwargs)
        finally:
            self._wait_for_device()
            if self._started == begun:  # else it has begun anew meanwhile
                self._spent[phase] += self._clock() - asked

    def items(self, phase: str, iterator: Iterator[Any]) -> Iterator[Any]:
        """Pass an iterator's items on, the wait for each counted as `phase`."""
        while True:
            try:
                item = self.call(phase, next, iterator)
            except StopIteration:
                return
            yield item

    def _wait_for_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


class Timed:
    """Passes everything on to an object, and times the calls of some of its methods.

    Args:
        inner: The object.
        timer: Takes the times.
        calls: Method -> the phase its calls count as.
        iterators: Method -> the phase in which the items of what it returns are waited for.
    """

    def __init__(
        self,
        inner: Any,
        timer: PhaseTimer,
        calls: Mapping[str, str] | None = None,
        iterators: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the parts."""
        self._inner, self._timer = inner, timer
        self._calls, self._iterators = calls or {}, iterators or {}

    def __getattr__(self, name: str) -> Any:
        """The object's own, perhaps wrapped."""
        value = getattr(self._inner, name)
        if name in self._calls:
            return lambda *args, **kwargs: self._timer.call(
                self._calls[name], value, *args, **kwargs
            )
        if name in self._iterators:
            return lambda *args, **kwargs: self._timer.items(
                self._iterators[name], iter(value(*args, **kwargs))
            )
        return value
