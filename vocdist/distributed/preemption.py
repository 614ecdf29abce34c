"""Asking a run to stop: SIGTERM, SIGINT, SIGUSR1, or the death of its launcher.

Asking only sets a flag; `agreement.py` reads it between two steps, on all ranks alike. A thread
hears the signals too, through the file descriptor that Python's own handler writes to at once:
Python code of the main thread does not run while it waits for other ranks inside a collective.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Never, Self, TypeVar

from vocdist.errors import ABANDONED_EXIT, PROCESS_LOST_EXIT, leave

Item = TypeVar("Item")

SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
]
# One Ctrl-C may arrive twice, from the terminal and through the launcher.
ECHO_S = 1.0
TICK_S = 0.5
# torchrun ends with SIGKILL what has not left by then; say why before that.
LAUNCHER_PATIENCE_S = 30
MARGIN_S = 5


class _CutShort(BaseException):
    """Breaks off a wait for data; a BaseException, because torch catches any Exception there."""


class StopRequest:
    """Whether this process was asked to stop, from `with` on; use it in the main thread.

    Args:
        has_peers: Other ranks must agree to the stop. When they have not after the time that
            launchers give, this process leaves without saving.
    """

    def __init__(self, *, has_peers: bool) -> None:
        """Hear nothing yet."""
        self.reason: str | None = None
        self._has_peers = has_peers
        self._agreed = False
        self._waiting = False
        self._cutting = False
        self._own_signals = 0
        self._first_signal: tuple[float, int] | None = None
        self._launcher = os.getppid() if _was_launched() else None
        # The frames of a broken-off wait: while they live, nobody waits for the loader to end.
        self._cut: BaseException | None = None
        self._done = False

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.reason is not None

    def request(self, reason: str) -> None:
        """Ask for a stop; only the first reason is kept."""
        self.reason = self.reason or reason

    def mark_agreed(self) -> None:
        """Say that all ranks know: from here on, saving may take as long as it takes."""
        self._agreed = True

    def until_requested(self, items: Iterator[Item]) -> Iterator[Item]:
        """Pass items on until a stop is asked for, be it in the middle of waiting for one."""
        try:
            while not self.requested:
                self._waiting = True
                try:
                    # Asked for between the two lines above: then no handler will raise any more.
                    if self.requested:
                        return
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self._waiting = False
                yield item
        except BaseException as error:
            # Raised inside a lock's own code, the cut comes out as that code's next failure.
            if not self._cutting:
                raise
            self._cut = error

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._read_end, self._write_end = socket.socketpair()
        for end in (self._read_end, self._write_end):
            end.setblocking(False)
        self._replaced = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._old_write_end = signal.set_wakeup_fd(
            self._write_end.fileno(), warn_on_full_buffer=False
        )
        self._listener = threading.Thread(target=self._listen, name="stop-request", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no more; but for one who is leaving, more signals of the launcher are nothing."""
        if self.requested:
            return
        signal.set_wakeup_fd(self._old_write_end)
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        # Not by closing it: a loader process may still hold a copy of this end.
        self._done = True
        self._write_end.send(b"\0")
        self._listener.join()
        self._write_end.close()
        self._read_end.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, between two of its bytecodes."""
        self.request(signal.Signals(number).name)
        if self._waiting:
            self._cutting = True
            raise _CutShort

    def _listen(self) -> None:
        while not self._done:
            if select.select([self._read_end], [], [], TICK_S)[0]:
                for number in self._read_end.recv(4096):
                    self._on_signal(number)
            if self._launcher is not None and os.getppid() != self._launcher:
                self.request("the end of its launcher")
            if self.requested:
                self._enforce()

    def _on_signal(self, number: int) -> None:
        """In the listening thread, at once."""
        if number not in SIGNALS:
            return  # of another handler, such as torch's for SIGCHLD
        if number == signal.SIGUSR1 and self._own_signals:
            self._own_signals -= 1
            return
        self.request(signal.Signals(number).name)
        now = time.monotonic()
        if self._first_signal is None:
            self._first_signal = now, number
            return
        first, first_number = self._first_signal
        # torchrun makes a SIGTERM of its second Ctrl-C.
        impatient = signal.SIGINT in (number, first_number)
        if impatient and now - first > ECHO_S:
            _leave("interrupted twice: left at once, nothing more was saved", ABANDONED_EXIT)

    def _enforce(self) -> None:
        """See to it that what was asked for happens."""
        if self._first_signal is None:
            self._first_signal = time.monotonic(), 0
        waited = time.monotonic() - self._first_signal[0]
        # Not at once: a second one would fall into the unwinding of the first.
        if self._waiting and waited > TICK_S / 2 and hasattr(signal, "pthread_kill"):
            # Its launcher died, or a destructor swallowed the exception: raise it (again).
            self._own_signals += 1
            with contextlib.suppress(ProcessLookupError):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        patience = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", LAUNCHER_PATIENCE_S))
        if self._has_peers and not self._agreed and waited > max(1, patience - MARGIN_S):
            _leave(
                f"asked to stop ({self.reason}), but the other processes did not answer in "
                f"{waited:.0f} s: left without saving; started again, the run goes on from its "
                f"last checkpoint",
                PROCESS_LOST_EXIT,
            )


def _was_launched() -> bool:
    """Whether the parent is accelerate or torchrun, without which this process is an orphan."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def _leave(message: str, code: int) -> Never:
    print(message, file=sys.stderr, flush=True)
    leave(code)
