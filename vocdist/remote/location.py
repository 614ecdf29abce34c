"""Where files may lie: local paths and URLs, and the fsspec file system of each."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import urlsplit

from vocdist.errors import UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CONNECT_S, SILENCE_S = 10.0, 30.0
# Never let go of: a forked child that dropped what it inherited would take its parent's connections
# out of the epoll that the two share, and the parent would wait for answers in vain.
_kept: dict[int, AbstractFileSystem] = {}


def open_filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """(file system, path in it) of a URL.

    Asked for anew at each use: fsspec keeps one per process, and one that was inherited over a
    fork does not work.

    Raises:
        UserError: The scheme's driver is not installed.
    """
    module, extra = driver_of(url)
    if find_spec(module) is None:
        raise UserError(f"{url}: needs {module}: pip install 'vocdist[{extra}]'")
    # Imported here: most commands, and each worker of a conversion, do without.
    import fsspec

    fs, path = fsspec.url_to_fs(url, use_listings_cache=False, **_timeouts(url))
    _kept[id(fs)] = fs
    return fs, path


def _timeouts(url: str) -> dict[str, Any]:
    """Bounds on silence, not on the whole: a large shard over a slow line is no fault."""
    if url.startswith("s3:"):
        bounds = {"connect_timeout": CONNECT_S, "read_timeout": SILENCE_S}
        return {"config_kwargs": bounds}
    if url.startswith("http"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        # trust_env: proxies and ~/.netrc, as other tools do.
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    return {}


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
