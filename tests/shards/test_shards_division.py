"""Train and val as the tree's own lists have them, and what is said of each way."""

import unicodedata

import pytest
from voc_on_disk import VocRoot, jpeg, xml

from vocdist.errors import UserError
from vocdist.shards.division import divide
from vocdist.shards.samples import samples_of
from vocdist.voc.classes import VOC_CLASSES

STEMS = [f"{i:03d}" for i in range(12)]


def write_lists(root, lists: dict[str, list[str]]) -> None:
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def division(root, usable=STEMS, others=(), follow_lists=None):
    return divide(root, usable, others, follow_lists=follow_lists, ratio=0.75, seed=42)


def test_both_lists_are_followed_unless_a_shuffle_is_asked_for(tmp_path):
    plain = division(tmp_path)
    assert (plain.kind, plain.notes) == ("seeded", ())
    write_lists(tmp_path, {"train": STEMS[:9], "val": STEMS[9:]})
    for follow_lists in (None, True):
        found = division(tmp_path, follow_lists=follow_lists)
        assert found.kind == "lists"
        assert found.stems == {"train": STEMS[:9], "val": STEMS[9:]}
        words = "split: ImageSets/Main, 9 train, 3 val; split=seeded shuffles instead"
        assert found.notes == (words,)
    seeded = division(tmp_path, follow_lists=False)
    assert (seeded.kind, seeded.stems) == ("seeded", plain.stems)
    (note,) = seeded.notes
    assert "passed over" in note and "split=lists" in note


def test_vocs_own_lists_leave_the_split_seeded(tmp_path):
    stems = [f"2008_{i:06d}" for i in range(5717 + 5823)]
    write_lists(tmp_path, {"train": stems[:5717], "val": stems[5717:]})
    found = division(tmp_path, stems)
    assert found.kind == "seeded" and "split=lists follows them" in found.notes[0]
    assert division(tmp_path, stems, follow_lists=True).kind == "lists"
    # Lists of that length of one's own are lists.
    own = [f"a{stem}" for stem in stems]
    write_lists(tmp_path, {"train": own[:5717], "val": own[5717:]})
    assert division(tmp_path, own).kind == "lists"


def test_images_of_test_are_in_neither_part(tmp_path):
    write_lists(tmp_path, {"train": STEMS[:8], "test": STEMS[8:]})
    found = division(tmp_path)
    assert sorted(found.stems["train"] + found.stems["val"]) == STEMS[:8]
    assert "4 images of test.txt are kept out" in found.notes[0]
    assert len(division(tmp_path, follow_lists=False).stems["train"]) == 9


def test_val_alone_leaves_the_rest_to_train(tmp_path):
    write_lists(tmp_path, {"valid": STEMS[9:], "test": STEMS[:2]})
    found = division(tmp_path)
    assert found.stems == {"train": STEMS[2:9], "val": STEMS[9:]}
    assert any("valid.txt alone" in note for note in found.notes)


def test_train_alone_and_empty_lists_are_passed_over_with_a_word(tmp_path):
    write_lists(tmp_path, {"train": STEMS[:9]})
    assert "no list of val" in division(tmp_path).notes[0]
    write_lists(tmp_path, {"train": [], "val": []})
    found = division(tmp_path)
    assert found.kind == "seeded" and "train.txt and val.txt empty" in found.notes[0]


def test_lists_of_another_tree_are_named_with_the_nearest_name(tmp_path):
    write_lists(tmp_path, {"train": ["img_001", "img_002"], "val": STEMS[9:]})
    words = r"train\.txt: none of its 2 lines .* first is img_001, the nearest .* 001: mend"
    with pytest.raises(UserError, match=words):
        division(tmp_path)


def test_lists_that_tear_a_picture_apart_are_counted(tmp_path):
    copies = [f"p{i}_jpg.rf.{h}" for i in range(4) for h in ("a1", "b2")]
    write_lists(tmp_path, {"train": copies[:5], "val": copies[5:]})
    assert "1 pictures have copies" in division(tmp_path, copies).notes[1]
    seeded = division(tmp_path, copies, follow_lists=False)
    assert any("8 images are 4 pictures" in note for note in seeded.notes)


def samples_in(root, **settings):
    rules = {"split_lists": None, "split_ratio": 0.8, "split_seed": 42, "skip_difficult": False}
    return samples_of(root, VOC_CLASSES, **(rules | settings))


def dogs(root: VocRoot, *stems: str) -> VocRoot:
    for number, stem in enumerate(stems):
        root.add(stem, xml([("dog", 0, 3, 4, 30, 40)]), jpeg(64, 48, number))
    return root


def test_one_sample_leaves_train_empty_and_that_is_said(voc_root):
    samples = samples_in(dogs(voc_root, "only").path)
    assert samples.notes[0].startswith("train: 0 images: a training refuses")


def test_names_with_dots_blanks_and_other_scripts_are_listed_in_any_form(voc_root):
    stems = ["a.b.c", "my photo 2", "Süd", "東京 1.v2", "مرحبا", "x.jpg"]
    dogs(voc_root, *stems)
    lines = [unicodedata.normalize("NFD", stem) for stem in stems]
    write_lists(voc_root.path, {"train": lines[:4], "val": [f"JPEGImages/{lines[4]}.jpg", "x.jpg"]})
    samples = samples_in(voc_root.path)
    assert samples.left_out_counts() == {}
    assert [s.image_name for s in samples.splits["train"]] == [f"{stem}.jpg" for stem in stems[:4]]
    assert [s.image_name for s in samples.splits["val"]] == ["مرحبا.jpg", "x.jpg.jpg"]


def test_images_of_nothing_are_kept_when_asked(voc_root, make, tmp_path):
    dogs(voc_root, *STEMS[:8])
    for number, stem in enumerate(STEMS[8:12]):
        voc_root.add(stem, xml([]) if number % 2 else None, jpeg(64, 48, number))
    # What is faulty stays out: nobody looked whether there is nothing.
    voc_root.add("broken", "<annotation>", jpeg(64, 48))
    voc_root.add("nameless", xml([("", 0, 3, 4, 30, 40)]), jpeg(64, 48))
    with pytest.raises(UserError, match="negatives=true") as caught:
        make(voc_root.path, tmp_path / "refused")
    assert str(caught.value).count("negatives=true keeps it") == 2
    manifest = make(voc_root.path, tmp_path / "out", negatives=True, max_rejected=0.2)
    assert manifest.negatives == 4
    assert sum(split.samples for split in manifest.splits.values()) == 12
    assert manifest.left_out == {"malformed_xml": 1, "no_usable_box": 1}
    write_lists(voc_root.path, {"train": STEMS[:9], "val": STEMS[10:11]})
    listed = samples_in(voc_root.path, negatives=True, max_rejected=0.2)
    assert listed.negatives == 2
    with pytest.raises(UserError, match="lists 008, which has no .*: negatives=true keeps it"):
        samples_in(voc_root.path, max_rejected=0.2)


def test_a_tree_of_nothing_alone_is_refused(voc_root):
    voc_root.add("a", xml([]), jpeg(64, 48))
    with pytest.raises(UserError, match="no image has a box"):
        samples_in(voc_root.path, negatives=True)


def test_filenames_of_other_images_are_counted(voc_root):
    dogs(voc_root, "x", "y")  # both XMLs say x.jpg
    assert "1 annotations name another image" in samples_in(voc_root.path).notes[0]


def test_difficult_objects_alone_make_no_image_of_nothing(voc_root):
    dogs(voc_root, "good", "better")
    hard, unknown = ("dog", 1, 3, 4, 30, 40), ("unicorn", 0, 3, 4, 30, 40)
    for stem, objects in {"hard": [hard], "both": [hard, unknown], "other": [unknown]}.items():
        voc_root.add(stem, xml(objects), jpeg(64, 48))
    samples = samples_in(voc_root.path, skip_difficult=True, strict=False, max_rejected=0.0)
    assert samples.left_out_counts() == {"only_difficult": 2}
    assert samples.box_counts() == {"difficult": 2}
    assert samples_in(voc_root.path).left_out_counts() == {}
