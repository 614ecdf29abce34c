"""What of an export is taken, entered, passed over and counted."""

import shutil

import pytest

from vocdist.errors import UserError
from vocdist.voc.arrange import arrange
from vocdist.voc.export_files import ImageIndex, read_export


def test_masks_and_drawings_of_images_are_no_images(tmp_path, add_pair, draw, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_pair(export / "JPEGImages/a.jpg", export / "Annotations/a.xml")
    folders = (
        "SegmentationClass",
        "SEGMENTATIONOBJECT",
        "instance_masks",
        "AnnotationsVisualization",
    )
    for folder in folders:
        draw(export / folder / "a.png")
    draw(export / "masks/a_mask.png")
    draw(export / "JPEGImages/a_mask.png")
    made = arrange(export, root)
    assert names(root / "JPEGImages") == ["a.jpg"]
    assert len(made.notes) == 1 and made.notes[0].startswith("6 masks and drawings are no photog")
    assert all(folder in made.notes[0] for folder in folders)


def test_photographs_of_masks_are_images(tmp_path, add_pair, draw):
    """A folder's name alone makes no mask of an image: its XML, or no image of its stem, tell."""
    export = tmp_path / "export"
    add_pair(export / "with_mask/0.jpg")
    add_pair(export / "without_mask/0.jpg")
    add_pair(export / "other/0.jpg")
    draw(export / "with_mask/1.jpg")
    assert arrange(export, tmp_path / "voc").images == 4


def test_folders_of_systems_and_hidden_files_are_not_entered(tmp_path, add_pair):
    export = tmp_path / "export"
    add_pair(export / "gear/a.jpg")
    for place in (
        "__MACOSX/gear/._a.jpg",
        "__MACOSX/a.jpg",
        "gear/@eaDir/a.jpg/thumb.jpg",
        ".x/b.jpg",
    ):
        add_pair(export / place)
    made = arrange(export, tmp_path / "voc")
    assert (made.images, made.annotations, made.notes) == (1, 1, ())


def test_other_files_are_counted_by_suffix(tmp_path, add_pair):
    export = tmp_path / "export"
    add_pair(export / "a.jpg")
    for name in ("b.heic", "c.HEIC", "d.gif", "e.svg", "notes", "meta.json"):
        (export / name).write_bytes(b"-")
    made = arrange(export, tmp_path / "voc")
    assert made.notes == ("not taken: 2 .heic, 1 .gif, 1 .svg, 1 without a suffix, 1 .json",)


def test_links_are_entered_once_and_their_content_is_placed(tmp_path, add_pair, draw, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(3):
        add_pair(tmp_path / f"store/{i}.jpg", export / f"annotations/{i}.xml")
    (export / "images").mkdir()
    (export / "images/0.jpg").symlink_to("../../store/0.jpg")
    draw(tmp_path / "more/1.jpg")
    draw(export / "images/real/2.jpg")
    (export / "images/linked").symlink_to("../../more")
    (export / "images/again").symlink_to("../images/real")
    (export / "images/up").symlink_to("../..")
    (export / "images/broken.jpg").symlink_to("nowhere.jpg")
    (export / "annotations/0.xml").rename(tmp_path / "0.xml")
    (export / "annotations/0.xml").symlink_to(tmp_path / "0.xml")
    made = arrange(export, root)
    shutil.rmtree(tmp_path / "store")
    assert names(root / "JPEGImages") == ["0.jpg", "1.jpg", "2.jpg"]
    assert all((root / f"JPEGImages/{i}.jpg").read_bytes() for i in range(3))
    assert not any(path.is_symlink() for path in root.rglob("*"))
    assert made.notes == (
        "1 links lead nowhere, as images/broken.jpg",
        "1 links lead to a folder above the export: not entered, as images/up",
    )


def test_an_output_inside_the_export_is_refused(tmp_path, add_pair):
    export = tmp_path / "export"
    add_pair(export / "a.jpg")
    (tmp_path / "link").symlink_to(export)
    for root in (export / "voc", tmp_path / "link/deep/voc"):
        with pytest.raises(UserError, match="lies inside the export"):
            arrange(export, root)
    with pytest.raises(UserError, match="is there already"):
        arrange(export, export)
    assert not (export / "voc").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotations><image/></annotations>", r"its root is <annotations>.* choose PASCAL VOC"),
        ("<annotation></annotation>", r"no object in any of them"),
        ("<annotation", r"none of 1 XML files can be used: .*a.xml: is not valid XML"),
    ],
)
def test_xml_without_an_object_is_refused_and_named(tmp_path, draw, content, message):
    draw(tmp_path / "export/a.jpg")
    (tmp_path / "export/a.xml").write_text(content)
    with pytest.raises(UserError, match=message):
        arrange(tmp_path / "export", tmp_path / "voc")


def test_other_xml_beside_annotations_is_not_taken(tmp_path, add_pair, names):
    add_pair(tmp_path / "export/a.jpg")
    (tmp_path / "export/project.xml").write_text("<project/>")
    made = arrange(tmp_path / "export", tmp_path / "voc")
    assert names(tmp_path / "voc/Annotations") == ["a.xml"]
    assert len(made.notes) == 1 and "project.xml is no VOC annotation: its root is" in made.notes[0]


def test_what_is_there_in_place_of_images_is_named(tmp_path, add_pair):
    export = tmp_path / "export"
    add_pair(export / "a.jpg")
    (export / "a.jpg").rename(export / "a.heic")
    with pytest.raises(UserError, match="no image below it, but 1 .heic"):
        arrange(export, tmp_path / "voc")


def test_an_image_is_found_by_what_its_name_has_in_common(tmp_path, draw):
    paths = [draw(tmp_path / name) for name in ("x/a.jpg", "y/a.jpg", "y/B.b.jpg", "c.0001.jpg")]
    index = ImageIndex(read_export(tmp_path).images)
    assert index.find("x/a.jpg") == index.find("C:\\x\\a.png") == paths[0]
    assert index.find("a") is None
    assert index.find("a", near=[tmp_path / "y"]) == paths[1]
    assert index.find("b.B") == paths[2]
    assert index.find("c.0001") == paths[3]
    assert index.find("c.0002") is index.find("c") is index.find(" ") is None


def test_labels_in_a_second_form_are_counted(tmp_path, add_pair):
    add_pair(tmp_path / "export/a.jpg")
    (tmp_path / "export/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    made = arrange(tmp_path / "export", tmp_path / "voc")
    assert made.notes == (
        "1 YOLO label files are not taken, as there are annotations in another form, as a.txt",
    )
