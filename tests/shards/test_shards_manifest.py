import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from voc_on_disk import jpeg

from vocdist.errors import UserError
from vocdist.shards.format import (
    PROGRESS_NAME,
    Manifest,
    SplitRule,
    load_manifest,
    manifest_hash,
    save_manifest,
)
from vocdist.shards.rejections import print_summary
from vocdist.shards.verify import verify_shards


def test_its_counts_are_the_xmls(small_root, small_shards):
    manifest = load_manifest(small_shards)
    objects, images = Counter(), Counter()
    for path in (small_root / "Annotations").iterdir():
        names = [item.findtext("name") for item in ET.parse(path).getroot().iter("object")]
        objects.update(names)
        images.update(set(names))
    for kind, expected in (("class_objects", objects), ("class_images", images)):
        found = sum((Counter(getattr(s, kind)) for s in manifest.splits.values()), Counter())
        assert found == expected
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 18,
        "val": 5,
    }
    for split in manifest.splits.values():
        assert sum(shard.samples for shard in split.shards) == split.samples
        assert sum(shard.objects for shard in split.shards) == split.objects
        assert sum(split.class_objects.values()) == split.objects
        for shard in split.shards:
            assert shard.bytes == os.path.getsize(small_shards / shard.name)


def test_the_hashes_are_what_sha256sum_says(small_shards):
    for split in load_manifest(small_shards).splits.values():
        for shard in split.shards:
            said = subprocess.run(
                ["sha256sum", small_shards / shard.name], capture_output=True, text=True, check=True
            )
            assert said.stdout.split()[0] == shard.sha256


def test_what_is_saved_loads_equal_and_the_hash_is_the_files(small_shards, tmp_path):
    manifest = load_manifest(small_shards)
    save_manifest(manifest, tmp_path)
    assert load_manifest(tmp_path) == manifest
    assert manifest_hash(tmp_path) == manifest_hash(small_shards)
    save_manifest(manifest.model_copy(update={"name": "other"}), tmp_path)
    assert manifest_hash(tmp_path) != manifest_hash(small_shards)


def test_timms_info_states_the_same_shards(small_shards):
    info = json.loads((small_shards / "_info.json").read_text())
    for name, split in load_manifest(small_shards).splits.items():
        stated = info["splits"][name]
        assert stated["name"] == name
        assert stated["num_samples"] == split.samples
        assert dict(zip(stated["filenames"], stated["shard_lengths"], strict=True)) == {
            shard.name: shard.samples for shard in split.shards
        }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "newer than this vocdist's 1: update vocdist"),
        ({"format_version": 2, "splits": "elsewhere"}, "newer than this vocdist's 1"),
        ({"splits": None}, "not a vocdist manifest .*splits"),
        (
            {"surprise": 1},
            "not a vocdist manifest .*surprise.* delete .* and make the shards again",
        ),
        ({"format_version": "1"}, "not a vocdist manifest .*format_version"),
        ({"format_version": 0}, "not a vocdist manifest .*format_version"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(small_shards, tmp_path, change, words):
    values = json.loads((small_shards / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=words):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../x-000000.tar",
        "/etc/x-000000.tar",
        "a/x-000000.tar",
        "..",
        "x-000000.tar\n",
        "passwd",
        "-",
    ],
)
def test_shards_lie_in_the_folder_and_nowhere_else(small_shards, tmp_path, name):
    values = json.loads((small_shards / "manifest.json").read_text())
    values["splits"]["train"]["shards"][0]["name"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"not a vocdist manifest \(splits.train.shards.0.name"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "\udce9"])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match="not a vocdist manifest"):
        load_manifest(tmp_path)


def test_without_a_manifest_the_message_says_how_to_make_shards(tmp_path):
    with pytest.raises(UserError, match=r"make_shards\.py source=kaggle:"):
        load_manifest(tmp_path)


def test_fields_of_what_is_rare_are_stored_where_there_is_something(small_shards, tmp_path):
    stored = json.loads((small_shards / "manifest.json").read_text())
    assert not {"changed", "negatives"} & stored.keys()
    update = {"changed": {"exif_turned": 1}, "negatives": 2}
    manifest = load_manifest(small_shards).model_copy(update=update)
    save_manifest(manifest, tmp_path)
    assert load_manifest(tmp_path) == manifest


def test_the_summary_says_all_there_is_to_know(small_shards):
    manifest: Manifest = load_manifest(small_shards).model_copy(
        update={
            "left_out": {"no_image": 1_200, "broken_image": 3},
            "boxes_left_out": {"empty_box": 2},
            "boxes_clipped": 7,
            "unknown_objects": {"[unicorn]": 4},
            "changed": {"corners_swapped": 5},
            "negatives": 6,
        }
    )
    out = io.StringIO()
    note = f"a note on [names] that is longer than a terminal is wide: {'x' * 60}"
    print_summary(Console(file=out, width=80), manifest, small_shards, [note])
    assert out.getvalue().startswith(f"{note}\n")
    text = out.getvalue()
    for words in (
        "train: 18 images",
        "in 4 shards",
        "left out (files): no_image 1,200, broken_image 3",
        "left out (boxes): empty_box 2",
        "boxes cut to their image: 7",
        "rejected.jsonl: corners_swapped 5",
        "images of nothing (negatives): 6",
        "objects of unknown classes: [unicorn] 4",
        "manifest.json is written",
    ):
        assert words in " ".join(text.split())


def test_the_command_prints_the_table_and_reads_its_config(small_root, tmp_path, small_shards):
    done = subprocess.run(
        [
            *(sys.executable, "scripts/make_shards.py", "configs/demo/shards.yaml"),
            *(f"source={small_root}", f"output={tmp_path / 'out'}"),
            *("name=test", "samples_per_shard=5", "workers=2"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    assert "diningtable" in done.stdout
    assert manifest_hash(tmp_path / "out") == manifest_hash(small_shards)
    for name in ("dataset.png", "dataset_samples.jpg"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 600
    assert verify_shards(tmp_path / "out", fast=True) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_conversion_never_waits_for_the_import_of_torch(small_root, tmp_path, workers):
    script = ("-X", "importtime", "scripts/make_shards.py", "configs/demo/shards.yaml")
    words = (f"source={small_root}", f"output={tmp_path / 'out'}", f"workers={workers}")
    done = subprocess.run([sys.executable, *script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Of its workers too, as they are forked.
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"simplejpeg", "matplotlib.figure", "vocdist.drawing"} <= imported
    assert not {"torch", "joblib", "webdataset", "accelerate", "wandb"} & imported
    assert (tmp_path / "out/dataset.png").exists()


def test_the_command_follows_the_trees_own_lists_by_default(voc_root, tmp_path):
    voc_root.fill(5)
    main = voc_root.path / "ImageSets/Main"
    main.mkdir(parents=True)
    (main / "Train.txt").write_text("2007_000003.jpg\n2007_000001.jpg\n")
    (main / "valid.txt").write_text("2007_000000\n")
    voc_root.add("bare", None, jpeg(64, 48))
    done = subprocess.run(
        [
            *(sys.executable, "scripts/make_shards.py", f"source={voc_root.path}"),
            *(f"output={tmp_path / 'out'}", "negatives=true", "pictures=false"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("split: ImageSets/Main, 2 train, 1 val; split=seeded shuffles")
    manifest = load_manifest(tmp_path / "out")
    assert manifest.split_rule == SplitRule(kind="lists", ratio=None, seed=None)
    assert manifest.left_out == {"not_in_a_list": 3} and manifest.negatives == 0


def test_no_remedy_writes_among_other_files(tmp_path: Path, demo_root: Path) -> None:
    with pytest.raises(UserError) as raised:
        load_manifest(demo_root)
    assert f"source={demo_root} output=shards/{demo_root.name}\n" in str(raised.value)
    assert f"output={demo_root}" not in str(raised.value)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError) as raised:
        load_manifest(tmp_path)
    assert f"make_voc.py {tmp_path} data/mine" in str(raised.value)
    assert f"output={tmp_path}" not in str(raised.value)
    (tmp_path / PROGRESS_NAME).touch()
    with pytest.raises(UserError, match="is not finished: run make_shards.py again"):
        load_manifest(tmp_path)
    # Only there, or into an empty folder, may shards be made as the message says.
    with pytest.raises(UserError, match=f"output={tmp_path / 'new'}\n"):
        load_manifest(tmp_path / "new")
