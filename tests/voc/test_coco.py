"""COCO JSON of several tools, as a VOC tree."""

import json

import pytest

from vocdist.errors import UserError
from vocdist.voc.annotation import parse_annotation
from vocdist.voc.arrange import arrange


def coco(path, images, annotations, categories=((1, "Dog"), (7, "hard hat"))):
    """`images`: file names, ids from 0; `annotations`: (image id, category id, box, more keys)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 50, "height": 40} for i, name in enumerate(images)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                **dict(sum(more, [])),
            }
            for i, (image, category, box, *more) in enumerate(annotations)
        ],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    path.write_text(json.dumps(content))


def objects(root, stem):
    found = parse_annotation(root / f"Annotations/{stem}.xml").objects
    return [(o.name, o.xmin, o.ymin, o.xmax, o.ymax, o.difficult) for o in found]


def test_boxes_become_vocs_in_whole_pixels_counted_from_1(tmp_path, draw):
    """x, y, w, h from 0 -> the first and the last pixel from 1; of half-open ends, the same."""
    export, root = tmp_path / "export", tmp_path / "voc"
    draw(export / "images/a.jpg")
    boxes = [(0, 1, [0, 0, 50, 40]), (0, 7, [2.4, 3.6, 10.2, 5.0]), (0, 1, [1, 1, 0.2, 0.2])]
    coco(export / "annotations/instances_default.json", ["a.jpg"], boxes)
    made = arrange(export, root)
    assert objects(root, "a") == [
        ("dog", 1, 1, 50, 40, False),
        ("hard hat", 3, 5, 13, 9, False),
        ("dog", 2, 2, 2, 2, False),
    ]
    annotation = parse_annotation(root / "Annotations/a.xml")
    assert (annotation.filename, annotation.width, annotation.height) == ("a.jpg", 50, 40)
    assert made.classes == ("dog", "hard hat")
    assert made.notes[0].startswith("read as COCO: 3 boxes")


def test_roboflows_layout_keeps_its_parts(tmp_path, draw):
    export, root = tmp_path / "export", tmp_path / "voc"
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        stems = [f"{i}_jpg.rf.{part}{i}.jpg" for i in range(count)]
        for stem in stems:
            draw(export / part / stem)
        boxes = [(i, 1, [1, 2, 3, 4]) for i in range(count)]
        coco(export / part / "_annotations.coco.json", stems, boxes)
    assert arrange(export, root).lists == {"train": 3, "val": 2, "test": 1}


def test_cocos_own_layout_with_equal_names_in_both_parts(tmp_path, draw):
    """`train2017`, `val2017`, and `annotations/instances_*.json`, beside those of other tasks."""
    export, root = tmp_path / "export", tmp_path / "voc"
    for part, category in (("train2017", 1), ("val2017", 7)):
        draw(export / part / "0.jpg")
        coco(
            export / f"annotations/instances_{part}.json", ["0.jpg"], [(0, category, [1, 2, 3, 4])]
        )
        coco(export / f"annotations/person_keypoints_{part}.json", ["0.jpg"], [])
    made = arrange(export, root)
    assert made.lists == {"train": 1, "val": 1}
    assert objects(root, "train2017_0")[0][0] == "dog"
    assert objects(root, "val2017_0")[0][0] == "hard hat"
    assert "annotations/person_keypoints_train2017.json: not taken for boxes" in made.notes


def test_what_is_changed_or_left_out_is_counted(tmp_path, draw):
    export, root = tmp_path / "export", tmp_path / "voc"
    for stem in "ab":
        draw(export / f"images/{stem}.jpg")
    draw(export / "images/unlisted.jpg")
    boxes = [
        (0, 1, [1, 1, 9, 9], [("iscrowd", 1)]),
        (0, 1, [1, 1, 0, 9]),
        (0, 1, None, [("segmentation", [[2, 3, 12, 3, 12, 13]])]),
        (0, 1, None, [("segmentation", {"counts": "x", "size": [1, 1]})]),
        (99, 1, [1, 1, 9, 9]),
    ]
    names = ["images/a.jpg", "..\\media\\b.jpg", "gone.jpg"]
    coco(export / "result.json", names, boxes)
    made = arrange(export, root)
    assert objects(root, "a") == [("dog", 2, 2, 10, 10, True), ("dog", 3, 4, 12, 13, False)]
    assert set(made.notes[1:]) == {
        "result.json: 1 of 3 images are not in the export, as gone.jpg",
        "boxes of crowds: marked difficult: 1",
        "boxes made of polygons: 1",
        "annotations without a box or polygon: left out: 1",
        "annotations of an image that the JSON does not list: left out: 1",
        "boxes without area: left out: 1",
        "images without a box: 1",
        "1 classes have no box: hard hat",
        "1 images have no annotation, as images/unlisted.jpg",
    }


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(0, 5, [1, 2, 3, 4])], "annotation 0 has category_id 5"),
        ([(0, 1, [1, 2, 3])], "annotation 0 has .1, 2, 3. for four numbers"),
        ([(0, 1, [1, 2, "x", 4])], "annotation 0 has .* for four numbers"),
        ([], "no object in any of them"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, draw, boxes, message):
    draw(tmp_path / "export/a.jpg")
    coco(tmp_path / "export/a.json", ["a.jpg"], boxes)
    with pytest.raises(UserError, match=message):
        arrange(tmp_path / "export", tmp_path / "voc")


def test_two_files_with_boxes_for_one_image_are_refused(tmp_path, draw):
    draw(tmp_path / "export/a.jpg")
    for name in ("first.json", "second.json"):
        coco(tmp_path / "export" / name, ["a.jpg"], [(0, 1, [1, 2, 3, 4])])
    with pytest.raises(UserError, match=r"second.json: has boxes for .*a.jpg, as .*first.json has"):
        arrange(tmp_path / "export", tmp_path / "voc")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"shapes": []}', "labelme's own form: labelme2voc.py"),
        ('[{"data": {}, "annotations": []}]', "Label Studio's own form: choose Pascal VOC XML"),
        ('[{"image": "a.jpg", "label": [], "annotator": 1}]', "Label Studio's own form"),
        ('{"_via_img_metadata": {}}', "VIA's own form: choose Export Annotations .COCO format"),
        ('{"a.jpg9": {"filename": "a.jpg", "regions": []}}', "VIA's own form"),
        ('{"images": [], "categories": []}', "COCO without annotations"),
        ('{"a": 1}', "of an unknown kind, with a"),
        ("{", "not valid JSON"),
    ],
)
def test_json_of_another_kind_is_named(tmp_path, draw, content, kind):
    draw(tmp_path / "export/a.jpg")
    (tmp_path / "export/a.json").write_text(content)
    with pytest.raises(
        UserError, match=rf"no \.xml file below it, but 1 \.json \(as a.json: {kind}"
    ):
        arrange(tmp_path / "export", tmp_path / "voc")


def test_boxes_as_shares_of_the_sides_are_named(tmp_path, draw):
    draw(tmp_path / "export/a.jpg")
    boxes = [(0, 1, [0.1, 0.2, 0.3, 0.4]), (0, 1, [0, 0, 1, 1])]
    coco(tmp_path / "export/a.json", ["a.jpg"], boxes)
    message = r"a.json: its boxes are shares \(0 to 1\) .* as \(0.1, 0.2, 0.4, 0.6\): COCO's are"
    with pytest.raises(UserError, match=message):
        arrange(tmp_path / "export", tmp_path / "voc")
    # One pixel is no share.
    coco(tmp_path / "export/a.json", ["a.jpg"], boxes[1:])
    arrange(tmp_path / "export", tmp_path / "voc")
