"""The exceptions that scripts turn into a single line for the user."""

import errno

# Of an OSError: the disk is full, or as full as this user may make it.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """A mistake that the user can mend: its message names the file or key and the remedy."""


class SharedError(UserError):
    """One that all ranks raise together: the main process says it for all."""


class Interrupted(Exception):  # noqa: N818 (it is not an error: all is saved)
    """A run that was asked to stop has saved its position: start it again to go on."""


class ProcessLost(Exception):  # noqa: N818 (named for what happened)
    """Another process of the run has ended or cannot be reached; nothing more was saved."""
