"""A data set in an experiment tracker: where its shards are and what they hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vocdist.remote.location import Location, join
from vocdist.shards.manifest import Manifest


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
