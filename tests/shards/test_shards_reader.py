import json
import multiprocessing
import os
import pickle
import shutil
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import webdataset

from vocdist.errors import UserError
from vocdist.shards.format import parse_record
from vocdist.shards.reader import ShardReader


def expected_rows(xml_path, classes):
    return [
        [
            classes.index(item.findtext("name")),
            *(int(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin")),
            int(item.findtext("bndbox/xmax")) - int(item.findtext("bndbox/xmin")),
            int(item.findtext("bndbox/ymax")) - int(item.findtext("bndbox/ymin")),
        ]
        for item in ET.parse(xml_path).getroot().iter("object")
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_sample_is_its_file_and_its_xml(small_root, small_shards, split):
    reader = ShardReader(small_shards, split)
    assert len(reader) == {"train": 18, "val": 5}[split]
    for index in range(len(reader)):
        sample = reader.read(index)
        notes = sample.annotations
        assert sample.jpeg == (small_root / f"JPEGImages/{notes.key}.jpg").read_bytes()
        rows = expected_rows(small_root / f"Annotations/{notes.key}.xml", reader.manifest.classes)
        assert notes.boxes.tolist() == rows
        assert notes.boxes.dtype == np.int32
        assert reader.annotations[index].key == notes.key
        assert reader.annotations[index].boxes.tolist() == rows
        assert tuple(reader.image_sizes[index]) == (notes.height, notes.width)
        assert reader.labels[index].tolist() == [int(i in {r[0] for r in rows}) for i in range(20)]


def test_a_limit_takes_the_first(small_shards):
    whole, some = ShardReader(small_shards, "train"), ShardReader(small_shards, "train", limit=7)
    assert len(some) == 7
    assert [a.key for a in some.annotations] == [a.key for a in whole.annotations[:7]]
    assert len(ShardReader(small_shards, "val", limit=100)) == 5


def keys_read_by(reader, indices, queue):
    queue.put([reader.read(i).annotations.key for i in indices])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_may_be_sent_to_or_inherited_by_another_process(small_shards, method):
    reader = ShardReader(small_shards, "train")
    keys = [reader.read(i).annotations.key for i in range(len(reader))]  # descriptors are open
    assert reader.annotations
    context = multiprocessing.get_context(method)
    queues = [context.SimpleQueue() for _ in range(2)]
    orders = [range(18), range(17, -1, -1)]
    workers = [
        context.Process(target=keys_read_by, args=(reader, list(order), queue))
        for order, queue in zip(orders, queues, strict=True)
    ]
    for worker in workers:
        worker.start()
    # Reading at once from all sides: pread shares no position.
    assert [reader.read(i).annotations.key for i in range(18)] == keys
    found = [queue.get() for queue in queues]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert found == [keys, keys[::-1]]
    assert reader.read(0).annotations.key == keys[0]


def test_a_copy_leaves_descriptors_and_annotations_behind(small_shards):
    reader = ShardReader(small_shards, "train")
    fresh = len(pickle.dumps(reader))
    reader.read(0)
    assert len(reader.annotations) == 18
    assert len(pickle.dumps(reader)) == fresh


def test_descriptors_are_closed_with_the_reader(small_shards):
    before = len(os.listdir("/proc/self/fd"))
    reader = ShardReader(small_shards, "train")
    for i in range(18):
        reader.read(i)
    assert len(os.listdir("/proc/self/fd")) == before + 4
    del reader
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def copy(small_shards, tmp_path):
    return shutil.copytree(small_shards, tmp_path / "copy")


def test_what_does_not_fit_the_manifest_is_refused(copy):
    with pytest.raises(UserError, match=r"no split 'test'; its manifest has train, val"):
        ShardReader(copy, "test")
    shard = copy / "train-000001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[:-512])
    with pytest.raises(UserError, match=r"train-000001\.tar: .* where the manifest states"):
        ShardReader(copy, "train")
    shard.unlink()
    with pytest.raises(UserError, match="not on disk"):
        ShardReader(copy, "train")
    shard.write_bytes(content)
    shutil.copy(copy / "val-000000.idx", copy / "train-000003.idx")
    with pytest.raises(UserError, match=r"train-000003\.idx: 5 samples where .* 3"):
        ShardReader(copy, "train")


def test_a_shard_cut_while_in_use_is_named(copy):
    reader = ShardReader(copy, "val")
    os.truncate(copy / "val-000000.tar", 600)
    with pytest.raises(UserError, match="cut short while in use"):
        reader.read(4)


# webdataset 1.0 leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("split", ["train", "val"])
def test_stock_webdataset_reads_the_same_samples(small_shards, split):
    ours = ShardReader(small_shards, split)
    urls = [str(path) for path in sorted(small_shards.glob(f"{split}-*.tar"))]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in theirs] == [a.key for a in ours.annotations]
    for index, sample in enumerate(theirs):
        assert sample["jpg"] == ours.read(index).jpeg
        assert json.loads(sample["json"])["boxes"] == ours.annotations[index].boxes.tolist()
    boxes = sum(len(json.loads(sample["json"])["boxes"]) for sample in theirs)
    assert boxes == ours.manifest.splits[split].objects
    decoded = next(iter(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")))
    assert decoded["jpg"].shape[2] == 3


def test_a_damaged_record_is_named_with_its_shard(copy):
    shard = copy / "train-000001.tar"
    shard.write_bytes(shard.read_bytes().replace(b'{"key"', b'["key"', 1))
    words = (
        rf"train-000001\.tar: sample 5 of train has no record.*verify_shards\.py {copy}, and make"
    )
    reader = ShardReader(copy, "train")
    for read in (reader.read, lambda index: reader.annotations[index]):
        with pytest.raises(UserError, match=words):
            read(5)


def test_a_key_is_a_plain_name():
    record = {"key": "../a", "width": 1, "height": 1, "boxes": [], "difficult": []}
    with pytest.raises(ValueError, match="key"):
        parse_record(json.dumps(record).encode())
