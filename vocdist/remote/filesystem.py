"""The fsspec file system behind a URL, with timeouts that end a dead connection."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vocdist.errors import UserError
from vocdist.remote.location import driver_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CONNECT_S, SILENCE_S = 10.0, 30.0


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
