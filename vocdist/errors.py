"""The exceptions that scripts turn into a single line for the user."""


class UserError(Exception):
    """A mistake that the user can mend: its message names the file or key and the remedy."""


class SharedError(UserError):
    """One that all ranks raise together: the main process says it for all."""
