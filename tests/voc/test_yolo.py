"""YOLO labels of several tools, as a VOC tree."""

import pytest
from PIL import Image

from vocdist.errors import UserError
from vocdist.voc.annotation import parse_annotation
from vocdist.voc.arrange import arrange


def label(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def objects(root, stem):
    found = parse_annotation(root / f"Annotations/{stem}.xml").objects
    return [(o.name, o.xmin, o.ymin, o.xmax, o.ymax) for o in found]


WHOLE = "0 0.5 0.5 1 1"


def test_centres_and_sides_become_corners_in_pixels_counted_from_1(tmp_path, draw):
    """LabelImg's: texts beside the images, classes.txt."""
    export, root = tmp_path / "export", tmp_path / "voc"
    draw(export / "a.jpg")
    label(export / "a.txt", WHOLE, "1 0.3 0.25 0.2 0.5", "1 0.1 0.1 0.4 0.4 0.1 0.1 0.3 0.2")
    label(export / "classes.txt", "dog", "Hard hat")
    made = arrange(export, root)
    assert objects(root, "a") == [
        ("dog", 1, 1, 50, 40),
        ("hard hat", 11, 1, 20, 20),
        ("hard hat", 6, 5, 20, 16),
    ]
    assert made.classes == ("dog", "hard hat")
    assert "boxes made of polygons: 1" in made.notes


@pytest.mark.parametrize("order", ["{part}/{kind}", "{kind}/{part}"])
def test_roboflows_and_ultralytics_layouts_keep_their_parts(tmp_path, draw, order):
    export, root = tmp_path / "export", tmp_path / "voc"
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        for i in range(count):
            draw(export / order.format(part=part, kind="images") / f"{i}.jpg")
            label(export / order.format(part=part, kind="labels") / f"{i}.txt", WHOLE)
    label(export / "data.yaml", "train: ../train/images", "nc: 1", "names: ['dog']")
    made = arrange(export, root)
    assert made.lists == {"train": 3, "val": 2, "test": 1}
    assert (made.images, made.annotations) == (6, 6)


def test_data_yaml_names_parts_that_folders_do_not(tmp_path, draw):
    export, root = tmp_path / "export", tmp_path / "voc"
    for day, count in (("monday", 3), ("tuesday", 1)):
        for i in range(count):
            draw(export / f"images/{day}/{day}{i}.jpg")
            label(export / f"labels/{day}/{day}{i}.txt", WHOLE)
    lines = ("path: /content/set", "train: images/monday", "val: images/tuesday")
    label(export / "my.yaml", *lines, "names:", "  0: dog")
    assert arrange(export, root).lists == {"train": 3, "val": 1}


def test_darknets_lists_name_parts(tmp_path, draw):
    """CVAT's: obj_train_data, obj.names, lists of paths."""
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(3):
        draw(export / f"obj_train_data/{i}.jpg")
        label(export / f"obj_train_data/{i}.txt", WHOLE)
    label(export / "obj.names", "dog")
    label(export / "train.txt", "data/obj_train_data/0.jpg", "data/obj_train_data/1.jpg")
    label(export / "valid.txt", "data/obj_train_data/2.jpg")
    assert arrange(export, root).lists == {"train": 2, "val": 1}


def test_images_of_nothing_keep_an_annotation_and_are_counted(tmp_path, draw):
    export, root = tmp_path / "export", tmp_path / "voc"
    for stem in "abc":
        draw(export / f"images/{stem}.jpg")
    label(export / "labels/a.txt", WHOLE)
    label(export / "labels/b.txt")
    label(export / "labels/gone.txt", WHOLE)
    label(export / "classes.txt", "dog")
    made = arrange(export, root)
    assert [objects(root, stem) for stem in "bc"] == [[], []]
    assert set(made.notes[1:]) == {
        "images without a box: 2",
        "images without a label file: taken as images of nothing: 1",
        "1 label files have no image, as labels/gone.txt",
    }


def test_shares_are_of_the_image_that_is_shown(tmp_path, draw):
    """A photograph that is stored turned is labelled upright."""
    export, root = tmp_path / "export", tmp_path / "voc"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(draw(export / "a.jpg")).save(export / "a.jpg", exif=exif)
    label(export / "a.txt", WHOLE)
    label(export / "classes.txt", "dog")
    arrange(export, root)
    annotation = parse_annotation(root / "Annotations/a.xml")
    assert (annotation.width, annotation.height) == (40, 50)
    assert objects(root, "a") == [("dog", 1, 1, 40, 50)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 1 1", "a.txt, line 2: class 3, but 1 names are given"),
        ("0 0.5 0.5 1", "a.txt, line 2: .* is no label"),
        ("0 25 20 50 40", "a.txt, line 2: .* no shares .* but percent or pixels"),
        ("0 250 20 50 40", "a.txt, line 2: .* no shares .* but pixels"),
        ("0 0.1 0.1 0.4 0.4 0.1 0.1 0.3", "a.txt, line 2: 7 numbers are neither"),
        ("dog 0.5 0.5 1 1", "a.txt, line 2: .* is no label"),
    ],
)
def test_lines_that_are_not_understood_are_named(tmp_path, draw, line, message):
    draw(tmp_path / "export/a.jpg")
    label(tmp_path / "export/a.txt", WHOLE, line)
    label(tmp_path / "export/classes.txt", "dog")
    with pytest.raises(UserError, match=message):
        arrange(tmp_path / "export", tmp_path / "voc")


def test_labels_need_names_and_names_must_agree(tmp_path, draw):
    draw(tmp_path / "export/a.jpg")
    label(tmp_path / "export/a.txt", WHOLE)
    with pytest.raises(UserError, match=r"a.txt: is a YOLO label, and no file names the classes"):
        arrange(tmp_path / "export", tmp_path / "voc")
    label(tmp_path / "export/classes.txt", "dog")
    label(tmp_path / "export/data.yaml", "names: [cat]")
    with pytest.raises(UserError, match=r"classes.txt: its class names are not those of .*data"):
        arrange(tmp_path / "export", tmp_path / "voc")
