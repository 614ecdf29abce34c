"""Do the cached copies of shards still have their hashes? Those that do not are removed."""

from collections.abc import Iterator
from pathlib import Path

from vocdist.remote.inventory import list_cache
from vocdist.remote.room import evict
from vocdist.shards.manifest import MANIFEST_NAME, load_manifest
from vocdist.shards.progress import file_sha256


def drop_damaged(root: Path) -> Iterator[tuple[Path, bool]]:
    """Hash every whole shard in the cache: (its path, whether it was right).

    A damaged one is fetched again when it is needed, as is one that is in use now: its readers
    keep what they have open.
    """
    for entry in list_cache(root):
        if entry.kind != "shards" or not (entry.folder / MANIFEST_NAME).is_file():
            continue
        manifest = load_manifest(entry.folder)
        for shard in (shard for split in manifest.splits.values() for shard in split.shards):
            path = entry.folder / shard.name
            if path.is_file():
                right = file_sha256(path) == shard.sha256
                if not right and not evict(path):
                    path.unlink(missing_ok=True)
                yield path, right
