"""Which image is in which part: by folders, by lists, and where neither says it."""

import pytest

from vocdist.errors import UserError
from vocdist.voc.arrange import arrange
from vocdist.voc.export_files import part_named


def listed(root, part):
    return (root / f"ImageSets/Main/{part}.txt").read_text().split()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Train", "train"),
        ("val2017", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("test-set", "test"),
        ("TrainImages", "train"),
        ("images_train", "train"),
        ("instances_val2017", "val"),
        ("trainset", "train"),
        ("trainval", None),
        ("VOC2012_test", None),
        ("aeroplane_train", None),
        ("latest", None),
        ("trains", None),
        ("", None),
    ],
)
def test_a_name_says_one_part_or_none(name, part):
    assert part_named(name) == part


def test_without_a_val_part_it_is_drawn_of_train_and_test_stays_out(tmp_path, add_pair):
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(10):
        add_pair(export / f"Train/{i}.jpg")
    for i in range(10, 14):
        add_pair(export / f"test2024/{i}.jpg")
    made = arrange(export, root)
    assert made.lists == {"train": 8, "val": 2, "test": 4}
    assert listed(root, "test") == ["10", "11", "12", "13"]
    assert sorted(listed(root, "train") + listed(root, "val")) == [str(i) for i in range(10)]
    assert any("names no part val: of 10 images, 8 were drawn" in note for note in made.notes)
    assert any("4 images of test are kept out" in note for note in made.notes)


def test_the_innermost_folder_decides(tmp_path, add_pair):
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(4):
        add_pair(export / f"test/{'train' if i < 3 else 'valid'}/{i}.jpg")
    assert arrange(export, root).lists == {"train": 3, "val": 1}


def test_all_images_in_test_are_refused(tmp_path, add_pair):
    add_pair(tmp_path / "export/test/a.jpg")
    with pytest.raises(UserError, match=r"export/test: all 1 images are in a part called test"):
        arrange(tmp_path / "export", tmp_path / "voc")
    assert not (tmp_path / "voc").exists()


@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_the_folders_of_either_half_count(tmp_path, add_pair, kind):
    """`images/{train,val}` beside flat `annotations`, and the reverse."""
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(4):
        part = "train" if i < 3 else "val"
        folders = {"images": "", "annotations": ""} | {kind: part}
        add_pair(
            export / "images" / folders["images"] / f"{i}.jpg",
            export / "annotations" / folders["annotations"] / f"{i}.xml",
        )
    assert arrange(export, root).lists == {"train": 3, "val": 1}
    assert listed(root, "val") == ["3"]


def test_halves_in_different_parts_are_refused(tmp_path, add_pair):
    export = tmp_path / "export"
    add_pair(export / "images/train/a.jpg", export / "annotations/train/a.xml")
    add_pair(export / "images/train/b.jpg", export / "annotations/val/b.xml")
    with pytest.raises(UserError, match=r"b.xml: lies in the folder of val, its image .* train"):
        arrange(export, tmp_path / "voc")


def test_one_part_alone_is_no_split(tmp_path, add_pair):
    for i in range(4):
        add_pair(tmp_path / f"export/train/{i}.jpg")
    made = arrange(tmp_path / "export", tmp_path / "voc")
    assert made.lists == {}
    assert made.notes == (
        "all 4 images are in one part, train: the conversion draws train and val from them",
    )


def test_a_class_called_train_is_no_part(tmp_path, add_pair):
    for name in ("train", "dog", "boat"):
        add_pair(tmp_path / f"export/{name}/{name}.jpg")
    made = arrange(tmp_path / "export", tmp_path / "voc")
    assert made.lists == {}
    assert any("1 of 3 images are in a part called train and the others" in n for n in made.notes)


def test_images_beside_a_val_part_are_train(tmp_path, add_pair):
    for i in range(4):
        add_pair(tmp_path / f"export/{'val/' if i == 3 else ''}{i}.jpg")
    made = arrange(tmp_path / "export", tmp_path / "voc")
    assert made.lists == {"train": 3, "val": 1}
    assert any("3 images are in no part: taken for train" in note for note in made.notes)


def test_lists_of_the_export_are_written_in_the_names_of_the_tree(tmp_path, add_pair):
    """Of any letter case and name; stems, file names, paths; quoted, flagged, in UTF-16."""
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(6):
        below = f"site{i % 2}/{i // 2}"  # each stem in both folders
        add_pair(export / f"JPEGImages/{below}.jpg", export / f"Annotations/{below}.xml")
    lists = export / "ImageSets/Main"
    lists.mkdir(parents=True)
    lines = ["site0/0", "site1/0.jpg 1", '"C:\\data\\site0\\1.jpg"', "# sorted by day", "", "gone"]
    (lists / "Train.txt").write_text("\r\n".join(lines))
    (lists / "VALIDATION.txt").write_text("site1/1\nsite0/2\nsite1/2\n", encoding="utf-16")
    (lists / "dog_train.txt").write_text("site0/0 1\n")
    made = arrange(export, root)
    assert listed(root, "train") == ["site0_0", "site0_1", "site1_0"]
    assert listed(root, "val") == ["site0_2", "site1_1", "site1_2"]
    assert made.notes == (
        "ImageSets/Main/Train.txt: 3 images, taken for train; 1 of its lines name no image with an "
        "annotation",
        "ImageSets/Main/VALIDATION.txt: 3 images, taken for val",
    )
    kept = sorted(path.name for path in (root / "ImageSets/Main").iterdir())
    assert kept == ["dog_train.txt", "train.txt", "val.txt"]


def test_lists_may_lie_anywhere_and_go_before_folders(tmp_path, add_pair):
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(4):
        add_pair(export / f"train/{i}.jpg")
    (export / "train.txt").write_text("./train/0.jpg\n./train/1.jpg\n./train/2.jpg\n")
    (export / "val.txt").write_text("./train/3.jpg\n")
    made = arrange(export, root)
    assert made.lists == {"train": 3, "val": 1}
    assert any("1 images are listed in another part than their folder" in n for n in made.notes)


def test_segmentations_lists_are_not_those_of_main(tmp_path, add_pair):
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(4):
        add_pair(export / f"JPEGImages/{i}.jpg", export / f"Annotations/{i}.xml")
    for kind, (train, val) in {
        "Main": ("0\n1\n2\n", "3\n"),
        "Segmentation": ("3\n", "0\n"),
    }.items():
        (export / "ImageSets" / kind).mkdir(parents=True)
        (export / f"ImageSets/{kind}/train.txt").write_text(train)
        (export / f"ImageSets/{kind}/val.txt").write_text(val)
    arrange(export, root)
    assert (listed(root, "train"), listed(root, "val")) == (["0", "1", "2"], ["3"])


def test_a_list_of_other_names_is_named_with_the_nearest(tmp_path, add_pair):
    export = tmp_path / "export"
    add_pair(export / "JPEGImages/frame_01.jpg", export / "Annotations/frame_01.xml")
    (export / "ImageSets/Main").mkdir(parents=True)
    (export / "ImageSets/Main/train.txt").write_text("frame-01\n")
    with pytest.raises(UserError, match=r"first is frame-01, the nearest .* frame_01.jpg"):
        arrange(export, tmp_path / "voc")


def test_an_image_in_two_lists_is_refused(tmp_path, add_pair):
    add_pair(tmp_path / "export/a.jpg")
    for part in ("train", "val"):
        (tmp_path / f"export/{part}.txt").write_text("a.jpg\n")
    with pytest.raises(UserError, match=r"val.txt: lists a.jpg for val, and .*train.txt lists it"):
        arrange(tmp_path / "export", tmp_path / "voc")


def test_versions_of_a_picture_are_drawn_together(tmp_path, add_pair):
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(6):
        for version in ("a1f3", "b27c"):
            add_pair(export / f"train/site_{i}_jpg.rf.{version}.jpg")
    made = arrange(export, root)
    of_part = [{stem.split(".rf.")[0] for stem in listed(root, part)} for part in ("train", "val")]
    assert [len(pictures) for pictures in of_part] == [4, 2]
    assert not of_part[0] & of_part[1]
    assert any("12 images are 6 pictures (.rf. and a hash)" in note for note in made.notes)


def test_versions_that_folders_tear_apart_are_counted(tmp_path, add_pair):
    export = tmp_path / "export"
    for part, stem in (("train", "a.rf.1"), ("valid", "a.rf.2"), ("valid", "b.rf.3")):
        add_pair(export / part / f"{stem}.jpg")
    made = arrange(export, tmp_path / "voc")
    assert made.lists == {"train": 1, "val": 2}
    assert any("1 pictures have versions (.rf. and a hash) in several" in n for n in made.notes)


def test_one_picture_alone_cannot_be_divided(tmp_path, add_pair):
    for version in ("1", "2"):
        add_pair(tmp_path / f"export/train/a.rf.{version}.jpg")
    with pytest.raises(UserError, match=r"all 2 images outside test are of one picture"):
        arrange(tmp_path / "export", tmp_path / "voc")
