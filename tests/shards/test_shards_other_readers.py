"""Other libraries read the shards as they are. Stock webdataset: see `test_shards_reader.py`."""

import json

import pytest

from vocdist.shards.reader import ShardReader


@pytest.mark.filterwarnings("ignore")  # of another library, about itself
def test_hugging_face_datasets_loads_every_sample(small_shards, tmp_path):
    datasets = pytest.importorskip("datasets", reason="pip install 'vocdist[bench]'")
    files = {
        split: [str(path) for path in sorted(small_shards.glob(f"{split}-*.tar"))]
        for split in ("train", "val")
    }
    loaded = datasets.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path))
    for split in files:
        ours = ShardReader(small_shards, split)
        assert len(loaded[split]) == len(ours)
        for row, notes in zip(loaded[split], ours.annotations, strict=True):
            assert row["__key__"] == row["json"]["key"] == notes.key
            assert row["json"]["boxes"] == notes.boxes.tolist()
            assert row["jpg"].size == (notes.width, notes.height)


def test_timms_info_names_files_that_are_there(small_shards):
    info = json.loads((small_shards / "_info.json").read_text())
    named = [name for split in info["splits"].values() for name in split["filenames"]]
    assert sorted(named) == sorted(path.name for path in small_shards.glob("*.tar"))
