import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocdist.errors import UserError
from vocdist.voc.pairing import match_files, pair_samples

JPEG = b"\xff\xd8\xff\xd9"
NO_OBJECTS = "<annotation><filename>a.jpg</filename></annotation>"


def left_out_names(pairing) -> dict[str, str]:
    return {item.path.name: item.reason for item in pairing.left_out}


def test_samples_come_sorted_with_their_annotation(tmp_path, make_root):
    # By stem, not by file name: "a-b.xml" sorts before "a.xml".
    stems = ("2008_000002", "b.c", "2007_000027", "ß é", "a-b", "a")
    root = make_root(tmp_path, stems)
    pairing = pair_samples(root)
    assert [sample.stem for sample in pairing.samples] == sorted(stems)
    assert pairing.left_out == ()
    for sample in pairing.samples:
        assert sample.image == root / "JPEGImages" / f"{sample.stem}.jpg"
        assert sample.annotation_path == root / "Annotations" / f"{sample.stem}.xml"
        assert [item.name for item in sample.annotation.objects] == ["dog"]


def test_every_way_to_be_left_out_has_its_reason(tmp_path, make_root, one_dog):
    root = make_root(tmp_path, ("good", "broken", "bare", "two_images", "two_xmls", "blind"))
    xmls, images = root / "Annotations", root / "JPEGImages"
    (xmls / "broken.xml").write_text("<annotation>")
    (xmls / "bare.xml").write_text(NO_OBJECTS)
    (images / "two_images.JPG").write_bytes(JPEG)
    (xmls / "two_xmls.XML").write_text(one_dog)
    (images / "blind.jpg").unlink()
    (images / "blind.png").write_bytes(b"")
    (images / "alone.jpg").write_bytes(JPEG)
    (images / ".DS_Store").write_bytes(b"")
    (images / "dangling.jpg").symlink_to(images / "gone.jpg")
    (images / "folder.jpg").mkdir()
    (xmls / "notes.txt").write_text("")
    pairing = pair_samples(root)
    assert [sample.stem for sample in pairing.samples] == ["good"]
    reasons = left_out_names(pairing)
    # Which of the two spellings comes first is the byte order of the names.
    assert reasons.pop("two_xmls.XML") == "duplicate_annotation"
    assert reasons == {
        "broken.xml": "malformed_xml",
        "bare.xml": "no_objects",
        "two_images.xml": "duplicate_image",
        "blind.xml": "no_image",
        "blind.png": "not_jpeg",
        "alone.jpg": "no_annotation",
        ".DS_Store": "hidden_file",
        "dangling.jpg": "not_a_file",
        "folder.jpg": "not_a_file",
        "notes.txt": "not_xml",
    }
    assert pairing.reasons()["not_a_file"] == 2
    assert pairing.reasons().total() == len(pairing.left_out) == 11
    assert [item.path for item in pairing.left_out] == sorted(p.path for p in pairing.left_out)
    details = {item.path.name: item.detail for item in pairing.left_out}
    assert details["blind.xml"].endswith("in JPEGImages, but blind.png (not_jpeg)")
    assert all(details.values())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".Jpeg"])
def test_the_spellings_of_the_jpeg_suffix(tmp_path, make_root, suffix):
    root = make_root(tmp_path)
    (root / "JPEGImages/a.jpg").rename(root / f"JPEGImages/a{suffix}")
    assert [sample.image.name for sample in pair_samples(root).samples] == [f"a{suffix}"]


def test_objects_of_unknown_classes_still_make_a_sample_eligible(tmp_path, make_root, one_dog):
    root = make_root(tmp_path)
    (root / "Annotations/a.xml").write_text(one_dog.replace("dog", "unicorn"))
    assert len(pair_samples(root).samples) == 1


def test_a_folder_that_is_no_root_is_refused(tmp_path):
    with pytest.raises(UserError, match="Annotations is missing"):
        pair_samples(tmp_path)


def pairs_of(root, **settings) -> dict[str, tuple[str | None, str]]:
    matched = match_files(root, **settings)
    return {pair.stem: (pair.annotation_name, pair.image_name) for pair in matched.pairs}


@pytest.mark.parametrize(
    ("xml", "image", "stem", "words"),
    [
        ("000.jpg.xml", "000.jpg", "000", "whole name"),
        ("a.b.JPEG.xml", "a.b.jpeg", "a.b", "whole name"),
        ("000.png.xml", "000.jpg", "000", "whole name"),
        ("img_1.xml", "IMG_1.JPG", "IMG_1", "case of letters"),
    ],
)
def test_an_annotation_of_another_name_is_paired_where_it_is_certain(
    tmp_path, make_root, one_dog, xml, image, stem, words
):
    root = make_root(tmp_path, ("plain",))
    (root / "Annotations" / xml).write_text(one_dog)
    (root / "JPEGImages" / image).write_bytes(JPEG)
    matched = match_files(root)
    assert pairs_of(root) == {"plain": ("plain.xml", "plain.jpg"), stem: (xml, image)}
    assert matched.left_out == []
    (note,) = matched.notes
    assert note.startswith("1 annotations") and words in note and xml in note


def test_an_image_keeps_its_own_annotation(tmp_path, make_root, one_dog):
    root = make_root(tmp_path, ("000.jpg", "000", "A"))  # images 000.jpg.jpg, 000.jpg, A.jpg
    (root / "Annotations/a.xml").write_text(one_dog)
    assert pairs_of(root)["000.jpg"] == ("000.jpg.xml", "000.jpg.jpg")
    assert left_out_names(pair_samples(root)) == {"a.xml": "no_image"}
    assert match_files(root).notes == ()


def test_one_name_in_two_unicode_forms_is_one_name(tmp_path, make_root, one_dog):
    root = make_root(tmp_path, ())
    there, here = (unicodedata.normalize(form, "Süd é") for form in ("NFC", "NFD"))
    (root / "Annotations" / f"{here}.xml").write_text(one_dog)
    (root / "JPEGImages" / f"{there}.jpg").write_bytes(JPEG)
    assert pairs_of(root) == {there: (f"{here}.xml", f"{there}.jpg")}
    (root / "JPEGImages" / f"{here}.jpg").write_bytes(JPEG)
    (item,) = match_files(root).left_out
    assert item.reason == "duplicate_image" and "look equal" in item.detail


def test_the_image_that_filename_names_is_said_and_is_no_image_of_nothing(
    tmp_path, make_root, one_dog
):
    root = make_root(tmp_path, ("plain", "empty"))
    (root / "Annotations/empty.xml").unlink()
    for said, name in [("folder\\upload_1.png", "task-1"), ("gone.jpg", "task-2")]:
        (root / "Annotations" / f"{name}.xml").write_text(one_dog.replace("a.jpg", said))
    (root / "JPEGImages/upload_1.jpg").write_bytes(JPEG)
    details = {item.path.name: item.detail for item in match_files(root).left_out}
    assert "its <filename> names upload_1.jpg" in details["task-1.xml"]
    assert "make_voc.py" in details["task-1.xml"] and "<filename>" not in details["task-2.xml"]
    assert "task-1.xml names it" in details["upload_1.jpg"]
    assert "negatives=true" in details["empty.jpg"] and "negatives" not in details["upload_1.jpg"]
    pairs = pairs_of(root, negatives=True)
    assert pairs == {"empty": (None, "empty.jpg"), "plain": ("plain.xml", "plain.jpg")}


FILES = st.sets(
    st.tuples(
        st.sampled_from(["Annotations", "JPEGImages"]),
        st.sampled_from(["a", "b", "a.b", ".c"]),
        st.sampled_from([".xml", ".XML", ".jpg", ".JPEG", ".png"]),
        st.sampled_from(["good", "bad"]),
    ),
    max_size=12,
)


@settings(deadline=None)  # a slow disk is no failure
@given(FILES)
def test_no_file_vanishes(files):
    good = "<annotation><object><name>x</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>"  # noqa: E501
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("Annotations", "JPEGImages"):
            (root / name).mkdir()
        for name, stem, suffix, kind in files:
            (root / name / f"{stem}{suffix}").write_text(good if kind == "good" else "<bad")
        present = set(root.glob("*/*"))
        pairing = pair_samples(root)
    used = [path for s in pairing.samples for path in (s.image, s.annotation_path)]
    listed = used + [item.path for item in pairing.left_out]
    assert len(listed) == len(set(listed))
    # A second file of a duplicate, and the image of a bad XML, go with the XML that is listed.
    claimed = {item.path.stem for item in pairing.left_out if item.path.parent.name != "JPEGImages"}
    assert {path for path in present - set(listed) if path.stem not in claimed} == set()
    assert set(listed) <= present
