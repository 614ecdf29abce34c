"""Exports of annotation tools, as they lay them out, into VOC trees."""

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vocdist.errors import UserError
from vocdist.shards.format import load_manifest
from vocdist.voc.arrange import arrange
from vocdist.voc.source import find_voc_root

XML = """<annotation><folder>photos</folder><filename>{}</filename><path>C:\\photos\\{}</path>
<size><width>64</width><height>48</height><depth>3</depth></size><segmented>0</segmented>
<object><name>{}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
<occluded>0</occluded><bndbox><xmin>3.5</xmin><xmax>40</xmax><ymin>4</ymin><ymax>30</ymax></bndbox>
</object></annotation>"""


def image(kind: str, shade: int = 128) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 99, 200)).save(stream, kind)
    return stream.getvalue()


def add(folder: Path, stem: str, suffix: str = ".jpg", name: str = "helmet", shade: int = 128):
    folder.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if suffix == ".png" else "JPEG"
    (folder / f"{stem}{suffix}").write_bytes(image(kind, shade))
    (folder / f"{stem}.xml").write_text(XML.format(stem, stem, name))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_flat_export_in_split_folders_keeps_its_split(tmp_path):
    """Roboflow's: dots and hashes in the names, XML beside the images, three folders."""
    export, root = tmp_path / "export", tmp_path / "voc"
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        for i in range(count):
            add(export / split, f"{split}_{i}_png.rf.0123abc")
    (export / "README.roboflow.txt").touch()
    made = arrange(export, root)
    assert (made.images, made.annotations, made.reencoded) == (6, 6, 0)
    assert made.lists == {"train": 3, "val": 2, "test": 1}
    assert find_voc_root(root) == root
    listed = (root / "ImageSets/Main/val.txt").read_text().splitlines()
    assert listed == ["valid_0_png.rf.0123abc", "valid_1_png.rf.0123abc"]
    assert {path.suffix for path in (root / "JPEGImages").iterdir()} == {".jpg"}


def test_names_that_occur_in_several_folders_are_told_apart(tmp_path):
    export, root = tmp_path / "export", tmp_path / "voc"
    add(export / "train", "0001", shade=1)
    add(export / "valid", "0001", shade=2)
    add(export / "valid", "0002")
    arrange(export, root)
    assert names(root / "JPEGImages") == ["0002.jpg", "train_0001.jpg", "valid_0001.jpg"]
    assert names(root / "Annotations") == ["0002.xml", "train_0001.xml", "valid_0001.xml"]
    for split in ("train", "valid"):
        kept = (root / f"JPEGImages/{split}_0001.jpg").read_bytes()
        assert kept == (export / split / "0001.jpg").read_bytes()


def test_sibling_folders_and_folders_below_the_standard_ones_pair_up(tmp_path):
    """`images/a.jpg` with `annotations/a.xml`, and CVAT's `JPEGImages/cam/b.jpg`."""
    export, root = tmp_path / "export", tmp_path / "voc"
    for kind, below in (("images", "annotations"), ("JPEGImages/cam", "Annotations/cam")):
        add(export / kind, "a")
        (export / below).mkdir(parents=True)
        (export / kind / "a.xml").rename(export / below / "a.xml")
    lists = export / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("a\n")
    arrange(export, root)
    assert names(root / "JPEGImages") == ["a.jpg", "cam_a.jpg"]
    assert names(root / "Annotations") == ["a.xml", "cam_a.xml"]
    assert (root / "ImageSets/Main/default.txt").read_text() == "a\n"


def test_other_images_become_jpeg_and_broken_ones_stay_for_the_conversion_to_name(tmp_path):
    """LabelImg's: XML beside photographs of every kind."""
    export, root = tmp_path / "export", tmp_path / "voc"
    for stem, suffix in (("a", ".JPG"), ("b", ".jpeg"), ("c", ".png"), ("d", ".png")):
        add(export, stem, suffix)
    (export / "d.png").write_bytes(b"no image")
    made = arrange(export, root)
    assert made.reencoded == 1
    assert names(root / "JPEGImages") == ["a.JPG", "b.jpeg", "c.jpg", "d.png"]
    with Image.open(root / "JPEGImages/c.jpg") as stored:
        assert (stored.format, stored.size) == ("JPEG", (64, 48))
    assert (export / "c.png").read_bytes() == image("PNG")


def test_what_cannot_be_arranged_is_said(tmp_path):
    export, root = tmp_path / "export", tmp_path / "voc"
    export.mkdir()
    with pytest.raises(UserError, match="no image below it"):
        arrange(export, root)
    add(export, "a")
    add(export, "a", ".png")
    with pytest.raises(UserError, match="another file is called a too"):
        arrange(export, root)
    (export / "a.png").unlink()
    (export / "a.xml").rename(tmp_path / "a.xml")
    with pytest.raises(UserError, match=r"no \.xml file below it: export .* as Pascal VOC"):
        arrange(export, root)
    (tmp_path / "a.xml").rename(export / "a.xml")
    root.mkdir()
    with pytest.raises(UserError, match="is there already"):
        arrange(export, root)
    assert names(root) == []


def test_from_export_to_shards_by_the_commands_that_are_shown(tmp_path):
    export, root = tmp_path / "export", tmp_path / "voc"
    for i in range(10):
        name = ("Helmet", "hard hat", "person, small")[i % 3]
        add(export / ("train" if i < 8 else "valid"), f"frame_{i}.rf.abc", name=name)

    def script(*words):
        return subprocess.run([sys.executable, *words], capture_output=True, text=True)

    refused = script("scripts/make_shards.py", f"source={export}", f"output={tmp_path / 'out'}")
    assert refused.returncode == 2
    advice = f"python scripts/make_voc.py {export} data/mine"
    assert advice in refused.stderr
    made = script("scripts/make_voc.py", export, root)
    assert made.returncode == 0, made.stderr
    _, *words = shlex.split(made.stdout.splitlines()[-1].removeprefix("now: "))
    done = script(*words, f"output={tmp_path / 'out'}", "pictures=false")
    assert done.returncode == 0, done.stderr
    manifest = load_manifest(tmp_path / "out")
    assert manifest.classes == ("hard hat", "helmet", "person, small")
    assert {name: split.objects for name, split in manifest.splits.items()} == {
        "train": 8,
        "val": 2,
    }
    assert manifest.unknown_objects == {}
