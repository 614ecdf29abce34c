"""The data set as a W&B artifact, read back from the files of a real offline run."""

import json
import os
from pathlib import Path

from conversion_runs import run
from wandb_file import read_history, read_records

from vocdist.shards.format import load_manifest
from vocdist.shards.verify import verify_shards


def test_the_artifact_holds_the_manifest_and_says_where_the_shards_are(small_root, tmp_path):
    output = tmp_path / "shards"
    settings = ["name=small set", "pictures=true", "tracking.wandb=offline"]
    folders = dict.fromkeys(("WANDB_DIR", "WANDB_DATA_DIR"), str(tmp_path))
    done = run(small_root, output, *settings, env=os.environ | folders)
    assert done.returncode == 0, done.stderr
    assert "W&B: offline (upload it with: wandb sync" in done.stdout
    (path,) = (tmp_path / "wandb").rglob("*.wandb")
    records = read_records(path)
    (artifact,) = (r.artifact for r in records if r.WhichOneof("record_type") == "artifact")
    assert (artifact.type, artifact.name) == ("dataset", "small-set")
    manifest = load_manifest(output)
    shards = [shard.name for split in manifest.splits.values() for shard in split.shards]
    contents = {entry.path: entry for entry in artifact.manifest.contents}
    assert set(contents) == {"manifest.json", *shards}
    # Uploaded: W&B has a copy of its own, this very file.
    copy = Path(contents["manifest.json"].local_path)
    assert copy.read_bytes() == (output / "manifest.json").read_bytes()
    (row,) = read_history(tmp_path)
    assert {row["dataset.png/_type"], row["dataset_samples.jpg/_type"]} == {"image-file"}
    for name in shards:
        assert contents[name].ref == (output / name).as_uri()
        assert not contents[name].local_path
    images = {name: split.samples for name, split in manifest.splits.items()}
    assert json.loads(artifact.metadata)["images"] == images
    # Nothing of W&B's is in the folder.
    assert verify_shards(output) == []
