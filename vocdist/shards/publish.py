"""Shards for others: uploaded to a URL, and logged to W&B as an artifact."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vocdist.errors import UserError
from vocdist.remote.cache import cache_folder
from vocdist.remote.location import Location, check_writable, join
from vocdist.remote.transfer import check_unchanged, list_names, object_facts, remove, upload_files
from vocdist.shards.convert import OUR_FILE
from vocdist.shards.format import MANIFEST_NAME, Manifest, index_path, load_manifest
from vocdist.shards.writer_lock import locked_for_writing


class Entry(NamedTuple):
    """Shard name -> its URL, and what is shown and searched."""

    references: Mapping[str, str]
    metadata: Mapping[str, Any]


def data_set_entry(manifest: Manifest, location: Location) -> Entry:
    """The entry of a shard folder: the same from a conversion and from a training that reads it."""
    url = location.absolute().as_uri() if isinstance(location, Path) else location
    shards = [shard.name for split in manifest.splits.values() for shard in split.shards]
    return Entry(
        references={name: join(url, name) for name in shards},
        metadata={
            "classes": list(manifest.classes),
            "images": {name: split.samples for name, split in manifest.splits.items()},
            "boxes": {name: split.objects for name, split in manifest.splits.items()},
        },
    )


NOTES_NAME = "uploaded.jsonl"
# What an upload that was cut off may have left besides shards.
UNFINISHED = re.compile(rf"{OUR_FILE.pattern}|dataset\.png|dataset_samples\.jpg|.*\.uploading")


@contextmanager
def staged(url: str, root: Path) -> Iterator[Path]:
    """Hold the folder below `root` in which the shards for a URL are made.

    Raises:
        UserError: Another run on this machine holds it, or the URL can only be read, or what is
            there was not made by a conversion.
    """
    check_writable(url)
    base = cache_folder(root, "staging", url)
    with locked_for_writing(base):
        names = list_names(url)
        foreign = [name for name in names if not UNFINISHED.fullmatch(name)]
        if foreign and MANIFEST_NAME not in names:
            raise UserError(f"{url}: not empty (it holds {foreign[0]}): choose another output")
        yield base / "shards"


def published(url: str, plan_sha256: str) -> Manifest | None:
    """The manifest at a URL when it is of this very plan and all its files are there.

    Raises:
        UserError: It is of other data or settings.
    """
    if object_facts(join(url, MANIFEST_NAME)) is None:
        return None
    manifest = load_manifest(url)
    if manifest.plan_sha256 != plan_sha256:
        raise UserError(
            f"{url}: holds shards of other data or other settings ('{manifest.name}'): choose "
            f"another output, or delete what is there"
        )
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        facts = object_facts(join(url, shard.name))
        index = object_facts(join(url, index_path(Path(shard.name)).name))
        if facts is None or index is None or facts["size"] != str(shard.bytes):
            return None
    return manifest


def publish(folder: Path, url: str) -> None:
    """Upload what a conversion left in the `staged` folder, the manifest last, and remove it.

    Raises:
        UserError: It cannot be written, or another run writes there.
    """
    notes = folder.parent / NOTES_NAME
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    names = [path.name for path in files if path.name != MANIFEST_NAME]
    for name in list_names(url):
        # Left by an interrupted run of another plan.
        if UNFINISHED.fullmatch(name) and name not in names:
            remove(join(url, name))
    wanted = [folder / name for name in names]
    # disable=None: no bar where stderr is not a terminal.
    for _ in tqdm(
        upload_files(wanted, url, notes), "upload", len(wanted), unit="file", disable=None
    ):
        pass
    check_unchanged(names, url, notes)
    for _ in upload_files([folder / MANIFEST_NAME], url, notes):
        pass
    shutil.rmtree(folder)
    notes.unlink()
