"""How a script ends: its exit codes, and leaving without waiting for anything."""

import contextlib
import multiprocessing
import os
import signal
import sys
from typing import Never

USER_ERROR_EXIT = 2
# EX_UNAVAILABLE of sysexits.h: another process is gone; start again to go on from the last save.
PROCESS_LOST_EXIT = 69
# EX_TEMPFAIL of sysexits.h: asked to stop, saved; start again to go on.
INTERRUPTED_EXIT = 75
# 128 + SIGINT, as shells say it: a second Ctrl-C, nothing was waited for.
ABANDONED_EXIT = 130


def leave(code: int) -> Never:
    """End this process now, and its loader processes with it.

    An orderly exit would wait for loader processes that may be stuck in a slow read, and for
    process groups whose other end may be dead.
    """
    if hasattr(signal, "SIGCHLD"):
        # torch raises an error here when a loader process dies, and these are about to. (Outside
        # the main thread, where no handler can be set, none runs either.)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
