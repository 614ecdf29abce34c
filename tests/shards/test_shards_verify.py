import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from vocdist.shards.format import index_bytes, load_manifest, save_manifest, scan_tar
from vocdist.shards.verify import verify_shards


@pytest.fixture
def copy(small_shards, tmp_path):
    return shutil.copytree(small_shards, tmp_path / "copy")


def change_byte(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def bless(folder, shard_name):
    """Make the manifest and the index state what the shard is now, as a bad writer would."""
    path = folder / shard_name
    path.with_suffix(".idx").write_bytes(index_bytes(scan_tar(path)))
    values = json.loads((folder / "manifest.json").read_text())
    for split in values["splits"].values():
        for shard in split["shards"]:
            if shard["name"] == shard_name:
                shard["bytes"] = path.stat().st_size
                shard["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(values))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_whole_shards_have_no_problem(small_shards, fast, workers):
    assert verify_shards(small_shards, fast=fast, workers=workers) == []


def cut_in_data(folder):
    os.truncate(folder / "train-000001.tar", 2_000)


def cut_at_a_sample(folder):
    shard = folder / "train-000001.tar"
    os.truncate(shard, scan_tar(shard)[3].jpg_offset - 512)


def cut_at_a_member(folder):
    shard = folder / "train-000001.tar"
    os.truncate(shard, scan_tar(shard)[3].json_offset - 512)


def flip_in_an_image(folder):
    change_byte(
        folder / "train-000002.tar", scan_tar(folder / "train-000002.tar")[0].jpg_offset + 9
    )


def flip_in_the_end(folder):
    change_byte(folder / "train-000002.tar", -1)


def swap(folder):
    for kind in ("tar", "idx"):
        one, two = folder / f"train-000000.{kind}", folder / f"train-000001.{kind}"
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)


def lose_a_shard(folder):
    (folder / "val-000000.tar").unlink()


def lose_an_index(folder):
    (folder / "val-000000.idx").unlink()


def move_an_offset(folder):
    path = folder / "val-000000.idx"
    path.write_text(path.read_text().replace("jpg 512 ", "jpg 513 ", 1))


def break_an_index(folder):
    (folder / "val-000000.idx").write_text("v9 1\n")


def add_a_shard(folder):
    shutil.copy(folder / "val-000000.tar", folder / "val-000001.tar")


def leave_a_temporary(folder):
    (folder / ".train-000000.tar.123.tmp").write_bytes(b"x")


def newer_manifest(folder):
    manifest = load_manifest(folder)
    save_manifest(manifest.model_copy(update={"format_version": 7}), folder)


def no_manifest(folder):
    (folder / "manifest.json").unlink()


def wrong_total(folder):
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"samples": 18', '"samples": 19'))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_in_data, "train-000001.tar: cut: 2,000 bytes of"),
        (cut_at_a_sample, "train-000001.tar: 3 samples of 5"),
        (cut_at_a_member, "train-000001.tar: 2007_"),
        (flip_in_an_image, "train-000002.tar: its bytes are not those it was made of"),
        (flip_in_the_end, "train-000002.tar: its bytes are not those it was made of"),
        (swap, "train-000001.tar: it holds the bytes of train-000000.tar"),
        (lose_a_shard, "val-000000.tar: missing"),
        (lose_an_index, "val-000000.idx: missing"),
        (move_an_offset, "val-000000.idx: its offsets are not those of val-000000.tar"),
        (break_an_index, "val-000000.idx: no usable index"),
        (add_a_shard, "val-000001.tar: stray"),
        (leave_a_temporary, ".train-000000.tar.123.tmp: stray"),
        (newer_manifest, "manifest.json: format version 7 is newer"),
        (no_manifest, "no shards here"),
        (wrong_total, "manifest.json: train has 19 samples, its shards 18"),
    ],
)
@pytest.mark.parametrize("fast", [True, False])
def test_each_kind_of_damage_is_named(copy, damage, words, fast):
    damage(copy)
    problems = verify_shards(copy, fast=fast)
    assert any(words in line for line in problems), problems
    # What was not touched is not accused.
    assert not [line for line in problems if line.startswith("train-000003")]


def test_all_problems_are_listed_not_the_first(copy):
    for damage in (cut_at_a_sample, flip_in_an_image, add_a_shard, lose_a_shard):
        damage(copy)
    named = {line.partition(":")[0] for line in verify_shards(copy)}
    assert named == {"train-000001.tar", "train-000001.idx", "train-000002.tar"} | {
        "val-000000.tar",
        "val-000001.tar",
    }


def test_the_manifest_of_another_data_set_is_recognised(copy, make, voc_root, tmp_path):
    make(voc_root.fill(23, first=100).path, tmp_path / "other")
    shutil.copy(tmp_path / "other/manifest.json", copy)
    for fast in (True, False):
        problems = verify_shards(copy, fast=fast)
        assert "it is of another data set" in problems[0]
        assert sum("not those it was made of" in line for line in problems) == 5


def edit_record(folder, change):
    """Put another record of the same length into the first val sample, hashes made to fit."""
    shard = folder / "val-000000.tar"
    entry = scan_tar(shard)[0]
    content = bytearray(shard.read_bytes())
    span = slice(entry.json_offset, entry.json_offset + entry.json_size)
    record = json.loads(content[span])
    record["filename"] = ""  # room for a longer number
    change(record)
    text = json.dumps(record, separators=(",", ":")).encode()
    content[span] = text[: entry.json_size].ljust(entry.json_size)
    shard.write_bytes(content)
    bless(folder, shard.name)


def set_box(column, value):
    def change(record):
        record["boxes"][0][column] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_box(3, 99), "is not inside the image"),
        (set_box(1, -1), "is not inside the image"),
        (set_box(4, 0), "is not inside the image"),
        (set_box(0, 99), "box 1 is of class 99"),
        (lambda record: record.update(width=9), "states (width, height) (9, "),
        (lambda record: record.update(key="2007_999999"), "it is the record of 2007_999999"),
        (lambda record: record.update(boxes=1), "not a record of vocdist"),
    ],
)
def test_contents_that_make_no_sense_are_found_behind_right_hashes(copy, change, words):
    edit_record(copy, change)
    assert verify_shards(copy, fast=True) == []
    problems = verify_shards(copy)
    assert any(words in line and line.startswith("val-000000.tar: ") for line in problems), problems


def test_a_jpeg_that_does_not_decode_is_found_behind_right_hashes(copy):
    shard = copy / "train-000003.tar"
    entry = scan_tar(shard)[1]
    content = bytearray(shard.read_bytes())
    middle = entry.jpg_offset + entry.jpg_size // 2
    content[middle : entry.jpg_offset + entry.jpg_size] = bytes(
        entry.jpg_size - entry.jpg_size // 2
    )
    shard.write_bytes(content)
    bless(copy, shard.name)
    (problem,) = verify_shards(copy)
    assert problem.startswith(f"train-000003.tar: {entry.key}.jpg: does not decode")


def verify_command(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/verify_shards.py", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_the_command_lists_the_problems_and_exits_with_1(copy, small_shards):
    done = verify_command(small_shards, "--fast", "--workers", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "23 samples, hashes and counts are right" in done.stdout
    swap(copy)
    done = verify_command(copy)
    assert done.returncode == 1
    assert "train-000000.tar: it holds the bytes of train-000001.tar" in done.stdout
    assert verify_command().returncode == 2
