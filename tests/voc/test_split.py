import os
import random
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocdist.errors import UserError
from vocdist.voc.split import (
    find_lists,
    listed_split,
    missing_stems,
    read_image_set,
    resolve_lists,
    seeded_split,
    torn_pictures,
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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_lists_are_read_by_their_mark(tmp_path, encoding):
    path = write(tmp_path / "train.txt", "Süd 1\r\n東京\rb\n".encode(encoding))
    assert read_image_set(path) == ["Süd", "東京", "b"]


@pytest.mark.parametrize("content", ["a\nb\n".encode("utf-16-le"), b"a\0b", b"\xff\xfea\0b"])
def test_a_list_that_is_no_text_is_refused_without_its_bytes(tmp_path, content):
    path = write(tmp_path / "train.txt", content)
    with pytest.raises(UserError, match="save it as UTF-8") as caught:
        read_image_set(path)
    assert str(caught.value).isprintable() and str(path) in str(caught.value)


def test_control_characters_of_a_list_do_not_reach_the_terminal(tmp_path):
    for name in ("train", "val"):
        write(tmp_path / f"ImageSets/Main/{name}.txt", "a\x1b[31m\n")
    with pytest.raises(UserError, match=r"lists a\\x1b\[31m in both") as caught:
        listed_split(tmp_path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["val.txt", "VAL.TXT", "Valid.txt", "validation.txt"])
def test_lists_are_found_by_any_of_their_names(tmp_path, name):
    write(tmp_path / "ImageSets/Main/Train.txt", "a\n")
    write(tmp_path / "ImageSets/Main" / name, "b\n")
    write(tmp_path / "ImageSets/Main/dog_train.txt", "c 1\n")
    assert listed_split(tmp_path) == {"train": ["a"], "val": ["b"]}


def test_of_several_lists_vocs_own_name_counts(tmp_path):
    main = tmp_path / "ImageSets/Main"
    for name in ("valid", "Validation"):
        write(main / f"{name}.txt", f"{name}\n")
    with pytest.raises(UserError, match=r"several lists of val, Validation\.txt and valid\.txt"):
        find_lists(tmp_path)
    write(main / "val.txt", "own\n")
    assert find_lists(tmp_path) == {"val": main / "val.txt"}


@pytest.mark.parametrize(
    ("line", "stem"),
    [
        ("000", "000"),
        ("000.jpg", "000"),
        ("JPEGImages/000.JPG", "000"),
        ("./images/000", "000"),
        ("C:\\data\\000.png", "000"),
        ("/somewhere/Annotations/000.xml", "000"),
        ('"000.jpg"', "000"),
        ("x.jpg", "x.jpg"),  # a stem that ends so wins
        ("site0/111", "site0_111"),
        ("data/site0/111.jpg", "site0_111"),
        ("a.b.c", "a.b.c"),
        ("my photo.jpeg", "my photo"),
        (unicodedata.normalize("NFD", "Süd.jpg"), "Süd"),
        ("ghost.jpg", "ghost.jpg"),
    ],
)
def test_lines_that_are_files_or_paths_are_understood(tmp_path, line, stem):
    stems = ("000", "x.jpg", "x", "site0_111", "111", "a.b.c", "a.b", "my photo", "Süd")
    found = resolve_lists(tmp_path, {"train": [line], "val": ["#note", "x"]}, stems)
    assert found.split == {"train": [stem], "val": ["x"]}
    assert len(found.notes) == (line not in (stem, "ghost.jpg"))


def test_lines_that_may_mean_one_image_are_refused(tmp_path):
    with pytest.raises(UserError, match="site0/000, site1/000.*one image .* 000: list stems"):
        resolve_lists(tmp_path, {"train": ["site0/000"], "val": ["site1/000"]}, ["000"])


def test_copies_of_one_picture_are_in_one_split():
    copies = [f"p{i}_jpg.rf.{h}" for i in range(6) for h in ("a1f3", "b27c", "c9d0")]
    split = seeded_split(copies, 0.8, 42)
    assert [len(split[name]) for name in ("train", "val")] == [12, 6]
    assert torn_pictures(split) == []
    assert torn_pictures({"train": copies[:4], "val": copies[4:]}) == [copies[3]]
    # However large a picture is, train gets one where there are two.
    assert len(seeded_split(copies[:3] + ["a"], 0.5, 0)["train"]) in (1, 3)


@given(st.sets(STEMS.filter(lambda stem: ".rf." not in stem)), st.integers(0, 99))
def test_names_without_a_hash_are_split_as_they_always_were(stems, seed):
    shuffled = sorted(stems)
    random.Random(seed).shuffle(shuffled)
    cut = int(len(shuffled) * 0.8)
    expected = {"train": shuffled[:cut], "val": shuffled[cut:]}
    assert seeded_split(list(stems), 0.8, seed) == expected


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
