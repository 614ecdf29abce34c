"""Trying again what may pass, and saying in one line what does not."""

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from vocdist.errors import UserError

Result = TypeVar("Result")

# How long one request is tried again, seconds; reading on after a success starts afresh.
PATIENCE_VARIABLE, DEFAULT_PATIENCE_S = "VOCDIST_RETRY_SECONDS", 120.0
LONGEST_WAIT_S = 15.0

PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})
# Drivers turn the server's words into these; a full or broken local disk is never tried here.
PASSING_ERRNO = frozenset(
    {errno.EIO, errno.EBUSY, errno.ETIMEDOUT, errno.EPIPE, getattr(errno, "EREMOTEIO", errno.EIO)}
)
# Base classes of aiohttp, botocore, httpx and requests, none of which need be installed.
PASSING_TYPES = frozenset(
    {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "IncompleteReadError"}
    | {"TransportError", "RequestException"}
)


class NotThereError(UserError):
    """The server says that there is no such object."""


class ShortError(Exception):
    """Fewer bytes came than were asked for."""


def retried(url: str, call: Callable[[], Result]) -> Result:
    """Call, and while the fault is one that may pass, again after a growing, random wait.

    Raises:
        NotThereError: There is no such object.
        UserError: It is refused, or it did not work for `VOCDIST_RETRY_SECONDS`.
    """
    # Imported here: most commands, and each worker of a conversion, do without.
    from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

    patience = _patience()
    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
        stop=stop_before_delay(patience),
        reraise=True,
    )
    try:
        return retrying(call)
    except UserError:
        raise
    except Exception as error:  # each driver has its own types
        raise _as_user_error(url, error, patience) from error


def is_passing(error: BaseException) -> bool:
    """Whether the same request may work in a moment: timeouts, cut connections, 5xx, 429."""
    if isinstance(error, FileNotFoundError | PermissionError | UserError):
        return False
    status = _status(error)
    if status is not None:
        return status in PASSING_STATUS
    if isinstance(error, ShortError | TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in PASSING_ERRNO:
        return True
    return any(base.__name__ in PASSING_TYPES for base in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp, gcsfs or huggingface_hub carries."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status"), (response, "status_code"), (error, "code")):
        status = getattr(holder, name, None)
        if isinstance(status, int) and status >= 100:
            return status
    return None


def _as_user_error(url: str, error: Exception, patience: float) -> UserError:
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotThereError(f"{url}: not there: check the URL")
    if status == 416:
        return UserError(f"{url}: is shorter than it was when it was made: upload it again")
    if isinstance(error, PermissionError) or status in (401, 403):
        return UserError(
            f"{url}: access is refused: check the credentials of this machine ({_text(error)})"
        )
    if isinstance(error, ShortError):
        return UserError(f"{url}: {error}: upload it again")
    if is_passing(error):
        return UserError(
            f"{url}: could not be reached for {patience:g} s ({_text(error)}): check the server "
            f"and the network and run again; {PATIENCE_VARIABLE}=… waits longer"
        )
    return UserError(f"{url}: {_text(error)}: check the URL and the credentials")


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


def _patience() -> float:
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        return float(text) if text else DEFAULT_PATIENCE_S
    except ValueError:
        raise UserError(f"{PATIENCE_VARIABLE}={text}: expected seconds, as 300") from None
