"""The one exception that scripts turn into a single line for the user."""


class UserError(Exception):
    """A mistake that the user can mend: its message names the file or key and the remedy."""
