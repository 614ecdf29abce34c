"""Where data lies: a folder of this machine, or a URL of one of the schemes that are allowed."""

import re
from pathlib import Path
from typing import TypeGuard
from urllib.parse import urlsplit

from vocdist.errors import UserError

# A str is a URL, checked by `parse_location`; its last character is no slash.
Location = Path | str

# Scheme -> (the module that fsspec needs for it, the extra of vocdist that installs it).
DRIVERS = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
    "hf": ("huggingface_hub", "hf"),
    "memory": ("fsspec", ""),  # of this process: for tests
}
READ_ONLY = frozenset({"http", "https"})
# With fsspec's chains ("a::b://") and webdataset's "pipe:", so that they are refused, not opened.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://|pipe:")


def is_url(location: Location) -> TypeGuard[str]:
    """Whether this names something behind a scheme, allowed or not."""
    return isinstance(location, str) and _SCHEME.match(location) is not None


def parse_location(text: Location) -> Location:
    """A folder, or a URL that is fit to have names added to it.

    Raises:
        UserError: The scheme is not one of `DRIVERS` (`pipe:`, which would run a shell, and
            fsspec's chained URLs are not), or the URL holds a query or credentials.
    """
    if not is_url(text):
        return Path(text).expanduser()
    scheme = _scheme(text)
    if scheme not in DRIVERS or "::" in text:
        raise UserError(f"{text}: not a URL that is read here: use one of {', '.join(DRIVERS)}")
    parts = urlsplit(text)
    if parts.query or parts.fragment:
        raise UserError(f"{text}: give the folder's URL, without '?' or '#'")
    if scheme in READ_ONLY and "@" in parts.netloc:
        # It would end up in configs, logs and messages.
        raise UserError(f"{scheme}://…@{parts.hostname}: put credentials into ~/.netrc instead")
    return text.rstrip("/")


def check_writable(url: str) -> None:
    """Refuse what can only be read.

    Raises:
        UserError: It is an http(s) URL.
    """
    if _scheme(url) in READ_ONLY:
        raise UserError(f"{url}: http can only be read: write to a folder, s3://, gs:// or hf://")


def driver_of(url: str) -> tuple[str, str]:
    """(the module that fsspec needs, the extra of vocdist that installs it)."""
    return DRIVERS[_scheme(url)]


def join(location: str, name: str) -> str:
    """The URL of a file in the folder at a URL."""
    return f"{location}/{name}"


def last_part(location: Location) -> str:
    """The folder's own name."""
    return Path(location).name if isinstance(location, Path) else location.rpartition("/")[2]


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()
