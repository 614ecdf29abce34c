"""Turn the `source` of a config into a VOC root on this machine's disk."""

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vocdist.errors import UserError
from vocdist.remote.cache import default_cache
from vocdist.remote.location import is_url
from vocdist.voc.layout import find_voc_root
from vocdist.voc.remote_tree import copy_voc_tree

KAGGLE_PREFIX = "kaggle:"
KAGGLE_HANDLE = re.compile(r"(?P<slug>[\w-]+/[\w-]+)(/versions/(?P<version>[1-9]\d*))?")
REACH_TIMEOUT_S = 5.0
# The address of a data set's page, as a browser shows it, with whatever stands behind the name.
KAGGLE_PAGE = re.compile(
    r"(https?://)?(www\.)?kaggle\.com/datasets/(?P<slug>[\w-]+/[\w-]+)"
    r"(/versions/(?P<version>[1-9]\d*))?(?P<rest>[/?#].*)?"
)
# Sites whose pages show a data set and do not hold its files as folders.
PAGES = re.compile(
    r"(https?://)?([\w-]+\.)*(kaggle\.com|roboflow\.com|huggingface\.co|github\.com|gitlab\.com|"
    r"drive\.google\.com|dropbox\.com|zenodo\.org)/\S+"
)
ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2|txz|7z|rar|tar\.\w+)([?#].*)?$", re.IGNORECASE)


def resolve_source(source: str, copies: Path | None = None) -> Path:
    """Find the VOC root that `source` names, downloading it if it must be.

    Args:
        source: A folder, its URL, `kaggle:owner/name`, or `kaggle:owner/name/versions/3`; the
            address of a Kaggle data set's page is taken for its name. Without a version, the newest
            complete one in kagglehub's cache is taken, without asking the network, so that a data
            set does not change between two runs.
        copies: The folder below which what is behind a URL is copied; None: the cache.

    Raises:
        UserError: There is no such data set, or it can be had neither from the cache nor from
            the network.
    """
    page = KAGGLE_PAGE.fullmatch(source)
    if page is not None:
        named = f"/versions/{page['version']}" if page["version"] else ""
        source = f"{KAGGLE_PREFIX}{page['slug']}{named}"
    _refuse_pages(source)
    if is_url(source):
        return find_voc_root(copy_voc_tree(source, copies or default_cache()))
    if not source.startswith(KAGGLE_PREFIX):
        folder = Path(source).expanduser()
        if KAGGLE_HANDLE.fullmatch(source) and not folder.exists():
            raise UserError(
                f"{source} is not a folder: check the path, or did you mean "
                f"source={KAGGLE_PREFIX}{source}?"
            )
        return find_voc_root(folder)
    handle = KAGGLE_HANDLE.fullmatch(source.removeprefix(KAGGLE_PREFIX))
    if handle is None:
        raise UserError(
            f"source={source} is not a Kaggle data set: write kaggle:owner/name or "
            "kaggle:owner/name/versions/3"
        )
    version = int(handle["version"]) if handle["version"] else None
    return find_voc_root(_kaggle_folder(handle["slug"], version))


def _refuse_pages(source: str) -> None:
    """Answer what is no tree of files without a request to the network.

    Raises:
        UserError: It is the page of a data set elsewhere, or an archive behind a URL.
    """
    archive = is_url(source) and ARCHIVE.search(source)
    page = PAGES.fullmatch(source) and not Path(source).exists()
    if not archive and not page:
        return
    what = "an archive" if archive else "a page, not a folder of files"
    raise UserError(
        f"{source} is {what}: download the data set, unpack it and pass the folder: "
        "source=/path/to/VOC2012 (of an export that is no VOC tree, scripts/make_voc.py makes one)"
    )


def _kaggle_folder(slug: str, version: int | None) -> Path:
    # kagglehub logs to the stdout it finds when imported, and stdout is for our own results.
    with redirect_stdout(sys.stderr):
        # Imported here: it takes a second, and local folders do without.
        import kagglehub
        from kagglehub.config import get_cache_folder

        cache = Path(get_cache_folder())
        cached = _cached_versions(cache, slug)
        if version is None:
            # kagglehub asks the network for the newest version even when it has one cached.
            version = max(cached, default=None)
        handle = slug if version is None else f"{slug}/versions/{version}"
        try:
            if version not in cached:
                _check_reachable()
            return Path(kagglehub.dataset_download(handle))
        except Exception as error:  # kagglehub and requests raise some fifteen unrelated types
            raise UserError(
                f"{KAGGLE_PREFIX}{handle} is not in kagglehub's cache ({cache}) and cannot be "
                f"downloaded ({_cause(error)}): fetch and unpack it by other means, then pass the "
                "folder: source=/path/to/VOC2012"
            ) from error


def _cached_versions(cache: Path, slug: str) -> set[int]:
    """List the versions that kagglehub has unpacked to the end: `<N>.complete` is its mark."""
    folder = cache / "datasets" / slug
    return {
        int(marker.stem)
        for marker in folder.glob("*.complete")
        if marker.stem.isdecimal() and (folder / "versions" / marker.stem).is_dir()
    }


def _check_reachable() -> None:
    """Fail within seconds where kagglehub would hang: it sets no timeout on its first request.

    Any answer will do, an HTTP error too: what it means is kagglehub's to say.
    """
    import requests
    from kagglesdk.kaggle_env import (  # type: ignore[import-untyped]
        get_endpoint,
        get_env,
        is_in_kaggle_notebook,
    )

    if not is_in_kaggle_notebook():  # there data sets are mounted, with the internet off
        requests.head(get_endpoint(get_env()), timeout=REACH_TIMEOUT_S, allow_redirects=False)


def _cause(error: Exception) -> str:
    import requests

    if isinstance(error, requests.Timeout | requests.ConnectionError):
        return "no connection to Kaggle"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([type(error).__name__ + ":", *lines])
