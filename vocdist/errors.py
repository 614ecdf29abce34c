"""Errors that end a command in one line, and its exit codes."""

import contextlib
import errno
import multiprocessing
import os
import signal
import sys
from typing import Never

# Of an OSError: the disk is full, or as full as this user may make it.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """A mistake that the user can mend: its message names the file or key and the remedy."""


class SharedError(UserError):
    """One that all ranks raise together: the main process says it for all."""


class Interrupted(Exception):  # noqa: N818 (it is not an error: all is saved)
    """A run that was asked to stop has saved its position: start it again to go on."""


class ProcessLost(Exception):  # noqa: N818 (named for what happened)
    """Another process of the run has ended or cannot be reached; nothing more was saved."""


USER_ERROR_EXIT = 2
# EX_UNAVAILABLE of sysexits.h: another process is gone; start again to go on from the last save.
PROCESS_LOST_EXIT = 69
# EX_TEMPFAIL of sysexits.h: asked to stop, saved; start again to go on.
INTERRUPTED_EXIT = 75
# 128 + SIGINT, as shells say it: a second Ctrl-C, nothing was waited for.
ABANDONED_EXIT = 130
# 128 + SIGPIPE, as shells say it: whoever read the output has closed it.
PIPE_CLOSED_EXIT = 141


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
