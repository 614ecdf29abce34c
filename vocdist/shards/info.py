"""`_info.json`, from which timm's reader of tar shards learns their names and lengths."""

import json
from pathlib import Path

from vocdist.atomic import replaced_when_done
from vocdist.shards.manifest import Manifest

INFO_NAME = "_info.json"


def save_info(manifest: Manifest, folder: Path) -> None:
    """Write what `timm.data.readers.reader_wds` looks for beside the shards."""
    splits = {
        name: {
            "name": name,
            "num_samples": split.samples,
            "filenames": [shard.name for shard in split.shards],
            "shard_lengths": [shard.samples for shard in split.shards],
        }
        for name, split in manifest.splits.items()
    }
    with replaced_when_done(folder / INFO_NAME) as temporary:
        temporary.write_text(json.dumps({"splits": splits}, indent=1) + "\n", encoding="utf-8")
