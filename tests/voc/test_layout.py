import os

import pytest

from vocdist.errors import UserError
from vocdist.voc.pairing import match_files
from vocdist.voc.source import find_voc_root

KAGGLE_TRAIN = "VOC2012_train_val/VOC2012_train_val"
KAGGLE_TEST = "VOC2012_test/VOC2012_test"


@pytest.mark.parametrize(
    "nesting", [".", "VOC2012", "VOCdevkit/VOC2007", KAGGLE_TRAIN, f"versions/1/{KAGGLE_TRAIN}"]
)
def test_the_known_nestings_are_found(tmp_path, make_root, nesting):
    root = make_root(tmp_path / nesting)
    assert find_voc_root(tmp_path) == root


@pytest.mark.parametrize("test_tree", [KAGGLE_TEST, "AAA_test", "VOCtest_06-Nov-2007/VOCdevkit"])
def test_a_sibling_test_tree_is_not_taken(tmp_path, make_root, test_tree):
    make_root(tmp_path / test_tree)
    root = make_root(tmp_path / KAGGLE_TRAIN)
    assert find_voc_root(tmp_path) == root


def test_a_test_tree_is_taken_when_it_is_all_there_is_or_asked_for(tmp_path, make_root):
    root = make_root(tmp_path / KAGGLE_TEST)
    assert find_voc_root(tmp_path) == root
    make_root(tmp_path / KAGGLE_TRAIN)
    assert find_voc_root(tmp_path / "VOC2012_test") == root


def test_several_data_sets_are_listed_for_the_user_to_choose(tmp_path, make_root):
    roots = [make_root(tmp_path / "VOCdevkit" / name) for name in ("VOC2012", "VOC2007")]
    make_root(tmp_path / "VOCdevkit/VOC2007_test")
    with pytest.raises(UserError, match="holds 2 VOC data sets: pass one of") as caught:
        find_voc_root(tmp_path)
    assert all(f"  {root}" in str(caught.value) for root in roots)


def test_test_inside_another_word_does_not_make_a_test_tree(tmp_path, make_root):
    make_root(tmp_path / "latest/VOC2012")
    make_root(tmp_path / "older/VOC2012")
    with pytest.raises(UserError, match="holds 2"):
        find_voc_root(tmp_path)


def test_a_root_within_a_root_does_not_count(tmp_path, make_root):
    root = make_root(tmp_path)
    make_root(tmp_path / "backup")
    assert find_voc_root(root) == root


def test_what_was_looked_for_is_said(tmp_path, make_root):
    with pytest.raises(UserError, match=r"levels deep .* Annotations .* JPEGImages; pass"):
        find_voc_root(tmp_path)
    with pytest.raises(UserError, match="is not a folder: check the path"):
        find_voc_root(tmp_path / "nowhere")
    (tmp_path / "voc.tar").write_bytes(b"")
    with pytest.raises(UserError, match="is not a folder: unpack it"):
        find_voc_root(tmp_path / "voc.tar")
    root = make_root(tmp_path / "VOC2012")
    with pytest.raises(UserError, match="the inside of one"):
        find_voc_root(root / "JPEGImages")


def test_near_misses_say_what_is_lacking(tmp_path):
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(UserError, match="JPEGImages is missing"):
        find_voc_root(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(UserError, match=r"Annotations has no \.xml"):
        find_voc_root(tmp_path)


def test_links_that_go_round_in_circles_end(tmp_path):
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="no VOC data set"):
        find_voc_root(tmp_path)


def test_the_image_folder_is_never_listed(tmp_path, make_root):
    root = make_root(tmp_path / "VOC2012")
    # Only a search that lists JPEGImages, 17,000 files in the real one, could find this decoy.
    make_root(root / "JPEGImages" / "decoy")
    os.rename(root / "Annotations", root / "Annotations_old")
    with pytest.raises(UserError, match="no VOC data set"):
        find_voc_root(tmp_path)


@pytest.mark.parametrize("name", ["a.xml", "train/_annotations.coco.json", "data.yaml"])
def test_an_export_in_another_layout_is_sent_to_make_voc(tmp_path, name):
    with pytest.raises(UserError) as caught:
        find_voc_root(tmp_path)
    assert "make_voc.py" not in str(caught.value)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"python scripts/make_voc.py {tmp_path} data/mine"):
        find_voc_root(tmp_path)


def test_what_macos_packs_beside_a_data_set_is_none(tmp_path, make_root):
    root = make_root(tmp_path / "gear")
    notes = tmp_path / "__MACOSX" / "gear"
    for name in ("Annotations/._000.xml", "JPEGImages/._000.jpg"):
        (notes / name).parent.mkdir(parents=True, exist_ok=True)
        (notes / name).write_bytes(b"\0\5\x16\7")
    assert find_voc_root(tmp_path) == root
    # Nor is a folder whose only XML files are hidden, whatever it is called.
    (tmp_path / "__MACOSX").rename(tmp_path / "copied")
    assert find_voc_root(tmp_path) == root


def test_a_jpeg_is_one_by_any_of_its_names(tmp_path):
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    names = ["a.jpg", "b.JPEG", "c.jpe", "d.JFIF", "e.jif", "f.pjpeg"]
    for name in names:
        (tmp_path / "JPEGImages" / name).touch()
        (tmp_path / "Annotations" / f"{name[0]}.xml").touch()
    matched = match_files(tmp_path)
    assert [pair.image_name for pair in matched.pairs] == names
    assert not matched.left_out
