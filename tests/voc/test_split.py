import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocdist.errors import UserError
from vocdist.voc.split import (
    listed_split,
    missing_stems,
    read_image_set,
    seeded_split,
    write_image_sets,
)

STEMS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=8)


def test_the_split_of_a_seed_is_pinned():
    # Python promises the same shuffle for the same seed; a change here would mix train into val.
    assert seeded_split([f"{i}" for i in range(10)], 0.8, 42) == {
        "train": ["7", "3", "2", "8", "5", "6", "9", "4"],
        "val": ["0", "1"],
    }


@given(st.sets(STEMS), st.floats(0, 1), st.integers(0, 2**32), st.randoms())
def test_a_split_covers_all_once_whatever_the_order_given(stems, ratio, seed, random):
    given_order = list(stems)
    random.shuffle(given_order)
    split = seeded_split(given_order, ratio, seed)
    assert sorted(split["train"] + split["val"]) == sorted(stems)
    assert len(split["train"]) == int(len(stems) * ratio)
    assert split == seeded_split(sorted(stems), ratio, seed)


def test_the_voc2012_sizes_and_the_seed_matters():
    stems = [f"{i:06d}" for i in range(17125)]
    split = seeded_split(stems, 0.8, 42)
    assert (len(split["train"]), len(split["val"])) == (13700, 3425)
    assert split != seeded_split(stems, 0.8, 43)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), 80])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(UserError, match="0 to 1"):
        seeded_split(["a"], ratio, 42)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_both_kinds_of_list_are_read(tmp_path):
    plain = write(tmp_path / "train.txt", "2008_000002\n2008_000003\n")
    flagged = write(
        tmp_path / "dog_train.txt", "\ufeff2008_000002 -1\r\n2008_000003  1\r\n\r\n000007  0"
    )
    assert read_image_set(plain) == ["2008_000002", "2008_000003"]
    assert read_image_set(flagged) == ["2008_000002", "2008_000003", "000007"]


def test_a_stem_may_hold_blanks(tmp_path):
    path = write(tmp_path / "train.txt", "my photo\nyour photo  1\n")
    assert read_image_set(path) == ["my photo", "your photo"]


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "lists no image"), (" \n\n", "lists no image"), ("a\na\n", "a more")],
)
def test_lists_that_cannot_be_meant_are_refused(tmp_path, content, words):
    path = write(tmp_path / "train.txt", content)
    with pytest.raises(UserError, match=words) as caught:
        read_image_set(path)
    assert str(path) in str(caught.value)
    with pytest.raises(UserError, match="cannot read"):
        read_image_set(tmp_path / "absent.txt")


def test_listed_split_reads_the_official_lists_and_missing_stems_are_told(tmp_path):
    write(tmp_path / "ImageSets/Main/train.txt", "b\na\n")
    write(tmp_path / "ImageSets/Main/val.txt", "c 1\n")
    split = listed_split(tmp_path)
    assert split == {"train": ["b", "a"], "val": ["c"]}
    assert listed_split(tmp_path, ["val"]) == {"val": ["c"]}
    assert missing_stems(split, {"a": 1, "c": 2}) == {"train": ["b"], "val": []}


def test_lists_that_overlap_are_refused(tmp_path):
    write(tmp_path / "ImageSets/Main/trainval.txt", "a\nb\n")
    write(tmp_path / "ImageSets/Main/val.txt", "b\n")
    with pytest.raises(UserError, match="lists b in both trainval and val"):
        listed_split(tmp_path, ("trainval", "val"))


@settings(deadline=None)  # a slow disk is no failure
@given(st.sets(STEMS, min_size=2))
def test_what_is_written_reads_back_or_is_refused(stems):
    ordered = list(stems)
    split = {"train": ordered[1:], "val": ordered[:1]}
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_image_sets(Path(folder), split)
        except UserError:
            assert any(stem != stem.strip() or stem.split()[1:] for stem in stems)
            assert list(Path(folder).iterdir()) == []
        else:
            assert listed_split(Path(folder)) == split


def test_names_that_are_not_utf8_pass_through(tmp_path):
    stem = os.fsdecode(b"caf\xe9")
    write_image_sets(tmp_path, {"train": [stem]})
    assert (tmp_path / "ImageSets/Main/train.txt").read_bytes() == b"caf\xe9\n"
    assert listed_split(tmp_path, ["train"]) == {"train": [stem]}


def test_official_lists_are_not_written_over_unasked(tmp_path):
    official = write(tmp_path / "ImageSets/Main/train.txt", "a\nb\n")
    write_image_sets(tmp_path, {"train": ["a", "b"], "val": ["c"]})  # nothing changes for train
    with pytest.raises(UserError, match="exists with other content"):
        write_image_sets(tmp_path, {"val": ["d"], "train": ["b", "a"]})
    assert official.read_text() == "a\nb\n"
    assert (tmp_path / "ImageSets/Main/val.txt").read_text() == "c\n"
    write_image_sets(tmp_path, {"train": ["b", "a"]}, overwrite=True)
    assert official.read_text() == "b\na\n"
    assert sorted(os.listdir(official.parent)) == ["train.txt", "val.txt"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    main = tmp_path / "ImageSets/Main"
    (main / "train.txt").mkdir(parents=True)
    with pytest.raises(OSError):
        write_image_sets(tmp_path, {"train": ["a"]}, overwrite=True)
    assert os.listdir(main) == ["train.txt"]
