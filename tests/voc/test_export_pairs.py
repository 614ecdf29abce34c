"""Which XML is of which image, where their names or folders differ."""

import unicodedata

import pytest

from vocdist.errors import UserError
from vocdist.voc.arrange import arrange


def stems(root, names):
    return [[n.rpartition(".")[0] for n in names(root / d)] for d in ("JPEGImages", "Annotations")]


def test_an_xml_called_after_the_whole_name_of_its_image(tmp_path, add_pair, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_pair(export / "JPEGImages/000.jpg", export / "Annotations/000.jpg.xml")
    # This one's stem is what its own XML is called.
    add_pair(export / "JPEGImages/001.jpg.jpg", export / "Annotations/001.jpg.xml")
    made = arrange(export, root)
    assert stems(root, names) == [["000", "001.jpg"]] * 2
    assert made.notes == (
        "1 pairs: the .xml is called after the whole name of the image (000.jpg.xml)",
    )


def test_names_in_two_unicode_forms_pair_and_come_out_composed(tmp_path, add_pair, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    composed, apart = (unicodedata.normalize(form, "Süd_0") for form in ("NFC", "NFD"))
    add_pair(export / f"images/{composed}.jpg", export / f"xml/{apart}.xml")
    arrange(export, root)
    assert stems(root, names) == [[composed]] * 2


def test_two_names_that_look_equal_are_refused(tmp_path, draw, add_pair):
    for form in ("NFC", "NFD"):
        add_pair(tmp_path / f"export/{unicodedata.normalize(form, 'ä')}.jpg")
    with pytest.raises(UserError, match="it looks the same"):
        arrange(tmp_path / "export", tmp_path / "voc")


def test_names_that_differ_in_letter_case_pair(tmp_path, add_pair, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_pair(export / "images/IMG_1.jpg", export / "xml/img_1.xml")
    assert arrange(export, root).notes == ("1 pairs: names equal but for their letter case",)
    assert stems(root, names) == [["IMG_1"]] * 2


def test_filename_pairs_what_names_do_not(tmp_path, add_pair, draw, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_pair(export / "images/a.jpg", export / "xml/task-1.xml", filename="a.jpg")
    add_pair(export / "images/b.jpg", export / "xml/task-2.xml", filename="C:\\up\\b.png")
    add_pair(export / "images/c.jpg", export / "xml/task-3.xml", filename="c")
    # Two that name one image: which is meant is not guessed.
    for number in (4, 5):
        add_pair(export / "images/d.jpg", export / f"xml/task-{number}.xml", filename="d.jpg")
    made = arrange(export, root)
    assert names(root / "JPEGImages") == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert names(root / "Annotations") == [
        f"{stem}.xml" for stem in ("a", "b", "c", "task-4", "task-5")
    ]
    assert made.notes == (
        "3 pairs: the image is the one that <filename> names",
        "2 .xml files have no image, as xml/task-4.xml",
        "1 images have no .xml, as images/d.jpg",
    )


def test_where_stem_and_filename_name_two_images_the_stem_decides(tmp_path, add_pair, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_pair(export / "a.jpg", filename="b.jpg")
    add_pair(export / "b.jpg")
    made = arrange(export, root)
    assert (root / "Annotations/a.xml").read_text() == (export / "a.xml").read_text()
    assert any("1 .xml files name another image in <filename>" in note for note in made.notes)


def test_halves_of_two_cameras_are_no_pair(tmp_path, add_pair):
    """cam1 lacks the XML of `x`, cam2 the image of another `x`."""
    export = tmp_path / "export"
    for camera in ("cam1", "cam2"):
        add_pair(export / camera / f"{camera}.jpg")
        add_pair(export / camera / "x.jpg")
    (export / "cam1/x.xml").unlink()
    (export / "cam2/x.jpg").unlink()
    made = arrange(export, tmp_path / "voc")
    assert made.notes == (
        "1 .xml files have no image, as cam2/x.xml",
        "1 images have no .xml, as cam1/x.jpg",
    )


def test_folders_of_any_names_pair_where_each_holds_one_kind(tmp_path, add_pair, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_pair(export / "photos/a.jpg", export / "boxes/a.xml")
    arrange(export, root)
    assert stems(root, names) == [["a"]] * 2


def test_folders_of_kinds_with_equal_stems_are_told_apart_by_their_whole_path(
    tmp_path, add_pair, draw, names
):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_pair(export / "a.jpg")
    draw(export / "images/a.jpg")
    arrange(export, root)
    assert names(root / "JPEGImages") == ["a.jpg", "images_a.jpg"]
    assert names(root / "Annotations") == ["a.xml"]
