"""From the setting `source` to a VOC folder: what one looks like, Kaggle's and remote ones."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from tqdm import tqdm

from vocdist.errors import UserError
from vocdist.files.atomic import temporary_path
from vocdist.files.lock import InUse, locked
from vocdist.remote.cache import default_cache, folder_in_use
from vocdist.remote.location import is_url, open_filesystem, parse_location
from vocdist.remote.transfer import NotThereError, retried
from vocdist.voc.split import list_part

# <cache>/owner/name -> versions/1/VOC2012_train_val/VOC2012_train_val is the deepest known nesting.
MAX_DEPTH = 4
# These hold files by the ten thousand and never a VOC root: the search does not list them.
LEAF_FOLDERS = frozenset(
    {"Annotations", "ImageSets", "JPEGImages", "SegmentationClass", "SegmentationObject"}
)
# macOS packs its own notes on each file into this folder of a zip, under the file's name.
MACOS_FOLDER = "__MACOSX"
# VOC2012_test, VOCtest_06-Nov-2007, VOC2007test; not "latest" or "contest".
TEST_TREE = re.compile(r"(?<![a-z])(voc)?test(?![a-z])")
FETCHES = 16
NOTES_NAME = "fetched.jsonl"
# What a server says of an object that changes when it is written.
FACTS = ("size", "ETag", "etag", "LastModified", "mtime", "updated", "created")
# Copies that this process reads, now or later: they are not cleared while it lives.
_in_use: dict[Path, InUse] = {}
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


def find_voc_root(folder: Path) -> Path:
    """Find the folder that holds both `Annotations` (with an .xml in it) and `JPEGImages`.

    `folder` may be that root, or hold it up to `MAX_DEPTH` levels down (VOCdevkit/VOC2007, the
    Kaggle nesting). A test tree is taken only when there is nothing else.

    Raises:
        UserError: The folder does not exist, holds no VOC root, or holds several.
    """
    if not folder.is_dir():
        hint = "unpack it and pass the folder" if folder.is_file() else "check the path"
        raise UserError(f"{folder} is not a folder: {hint}")
    roots = sorted(_roots_below(folder, MAX_DEPTH))
    if not roots:
        raise UserError(
            f"no VOC data set in {folder}: looked {MAX_DEPTH} levels deep for a folder that holds "
            f"both Annotations (with .xml files) and JPEGImages{_near_miss(folder)}; "
            f"pass that folder{_export_hint(folder)}"
        )
    choice = [root for root in roots if not _is_test_tree(root.relative_to(folder))] or roots
    if len(choice) > 1:
        listed = "\n".join(f"  {root}" for root in choice)
        raise UserError(f"{folder} holds {len(choice)} VOC data sets: pass one of\n{listed}")
    return choice[0]


def _roots_below(folder: Path, depth: int) -> Iterator[Path]:
    if _has_xml(folder / "Annotations") and (folder / "JPEGImages").is_dir():
        yield folder
    elif depth > 0:
        for name in _subfolders(folder):
            yield from _roots_below(folder / name, depth - 1)


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry.name
                for entry in entries
                if entry.is_dir()
                and entry.name not in LEAF_FOLDERS | {MACOS_FOLDER}
                and entry.name[0] != "."
            ]
    except PermissionError:
        # lost+found on a mounted disk must not stop the search beside it.
        return []


def _has_xml(folder: Path) -> bool:
    """Stop at the first .xml, not after listing all of them; hidden ones are none."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        names = (entry.name for entry in entries)
        return any(name.lower().endswith(".xml") and name[0] != "." for name in names)


def _is_test_tree(relative: Path) -> bool:
    return any(TEST_TREE.search(part.lower()) for part in relative.parts)


def _near_miss(folder: Path) -> str:
    """Say what a folder that is almost a root lacks: the commonest mistake is one level off."""
    if folder.name in LEAF_FOLDERS:
        return f" (this is the inside of one: try {folder.parent})"
    has_images = (folder / "JPEGImages").is_dir()
    if (folder / "Annotations").is_dir() or has_images:
        return " (here, " + ("Annotations has no .xml)" if has_images else "JPEGImages is missing)")
    return ""


def _export_hint(folder: Path) -> str:
    """What to do with an export of another layout, as annotation tools make them."""
    kinds = [kind for kind in (".xml", ".json", ".yaml") if any(folder.rglob(f"*{kind}"))]
    if not kinds:
        return ""
    return (
        f". There are {kinds[0]} files here: an export of another layout becomes a VOC tree by "
        f"python scripts/make_voc.py {folder} data/mine"
    )


def copy_voc_tree(url: str, root: Path) -> Path:
    """Copy annotations, images and split lists below a URL into a folder below `root`.

    Files that were copied before and have not changed since, as far as the server says, are not
    fetched again. The copy stays in the cache until this process ends.

    Raises:
        UserError: It cannot be read or listed, or holds no VOC tree.
    """
    url = str(parse_location(url))
    base, hold = folder_in_use(root, "sources", url)
    _in_use[base] = hold
    # One process at a time brings it up to date.
    with locked(base / ".lock", create=True):
        _update(url, base / "tree", base / NOTES_NAME)
    return base / "tree"


def _update(url: str, tree: Path, notes: Path) -> None:
    """Make a copy what the URL holds now."""
    wanted = _wanted(url)
    known = _read_notes(notes)
    for path in [p for p in tree.rglob("*") if p.is_file()]:
        if path.relative_to(tree).as_posix() not in wanted:
            path.unlink()
    missing = [
        name
        for name, info in wanted.items()
        if known.get(name) != _facts(info) or not (tree / name).is_file()
    ]
    with (
        ThreadPoolExecutor(FETCHES) as pool,
        notes.open("a", encoding="utf-8") as stream,
        # disable=None: no bar where stderr is not a terminal.
        tqdm(total=len(missing), desc="fetch", unit="file", disable=None) as bar,
    ):
        try:
            fetched = pool.map(lambda n: _fetch(url, wanted[n]["name"], tree / n), missing)
            for name, _ in zip(missing, fetched, strict=True):
                stream.write(json.dumps([name, _facts(wanted[name])]) + "\n")
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _wanted(url: str) -> dict[str, Mapping[str, Any]]:
    """Path below the URL -> what the server says of it, for the files that a conversion reads."""

    def find() -> tuple[str, dict[str, Any]]:
        fs, path = open_filesystem(url)
        fs.invalidate_cache()
        return path, fs.find(path, detail=True)

    try:
        path, found = retried(url, find)
    except NotThereError:
        found = {}
    wanted: dict[str, Mapping[str, Any]] = {}
    for name, info in found.items():
        relative = name[len(path) :].lstrip("/")
        if url.startswith("http"):
            relative = unquote(relative)
        parts = PurePosixPath(relative).parts
        # A server may list what it likes: nothing of it lies outside the tree.
        below = ".." not in parts and not relative.startswith("/")
        if _is_read(parts) and below and "?" not in relative:
            wanted["/".join(parts)] = {**info, "name": name}
    if not wanted:
        raise UserError(
            f"{url}: no VOC data set is listed there: it needs folders Annotations and JPEGImages, "
            f"and over http a server that lists its folders"
        )
    return wanted


def _is_read(parts: tuple[str, ...]) -> bool:
    if len(parts) < 2 or MACOS_FOLDER in parts:
        return False
    return parts[-2] in ("Annotations", "JPEGImages") or (
        parts[-3:-1] == ("ImageSets", "Main") and list_part(parts[-1]) is not None
    )


def _fetch(url: str, remote: str, local: Path) -> None:
    def read() -> bytes:
        fs, _ = open_filesystem(url)
        content: bytes = fs.cat_file(remote)
        return content

    content = retried(remote, read)
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(local)
    temporary.write_bytes(content)
    # Not fsynced, as there are tens of thousands: images and XML are checked when they are read.
    os.replace(temporary, local)


def _facts(info: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(info[name]) for name in FACTS if name in info}


def _read_notes(notes: Path) -> dict[str, Any]:
    known = {}
    for line in notes.read_bytes().splitlines() if notes.exists() else ():
        try:
            name, facts = json.loads(line)
            known[name] = facts
        except ValueError:
            continue  # cut by a kill
    return known


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
