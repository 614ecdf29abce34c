"""A data set in which nearly every file is wrong in its own way, and not one goes unreported."""

import io
import json
import os
import runpy
import shutil

import numpy as np
import pytest
from launch import REPO
from PIL import Image
from voc_on_disk import jpeg, xml

from vocdist.data.dataset import decode_image
from vocdist.errors import UserError
from vocdist.inference.images import image_pixels, image_size
from vocdist.shards.format import load_manifest
from vocdist.shards.images import BadImage, bits_a_channel, checked_size
from vocdist.shards.reader import ShardReader

GOOD_BOX = ("dog", 0, 3, 4, 30, 40)
GOOD_XML = xml([GOOD_BOX])
PHOTO = jpeg(64, 48)
BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
LEAK = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><annotation>&b;</annotation>'


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48)).save(stream, kind)
    return stream.getvalue()


def damaged() -> bytes:
    middle = len(PHOTO) * 2 // 3
    return PHOTO[:middle] + b"\xff\xd9\xff\xc4" + PHOTO[middle + 4 :]


def rotated(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(64, 48, exif=exif)


def deep() -> bytes:
    """A JPEG that claims 12 bits a channel, as some X-ray stations write."""
    at = PHOTO.index(b"\xff\xc0") + 4
    return PHOTO[:at] + b"\x0c" + PHOTO[at + 1 :]


def huge() -> bytes:
    """A JPEG that claims 65,500 x 65,500 pixels."""
    at = PHOTO.index(b"\xff\xc0") + 5
    return PHOTO[:at] + (65_500).to_bytes(2, "big") * 2 + PHOTO[at + 4 :]


# stem: (annotation, image, reason)
REJECTED = {
    "empty_jpeg": (GOOD_XML, b"", "empty_image"),
    "cut_jpeg": (GOOD_XML, PHOTO[: len(PHOTO) // 2], "broken_image"),
    "cut_at_the_end": (GOOD_XML, PHOTO[:-2], "broken_image"),
    "header_only": (GOOD_XML, PHOTO[:20], "broken_image"),
    "soi_only": (GOOD_XML, b"\xff\xd8", "broken_image"),
    "damaged_jpeg": (GOOD_XML, damaged(), "broken_image"),
    "twelve_bits": (GOOD_XML, deep(), "deep_image"),
    "huge_claim": (GOOD_XML, huge(), "image_too_large"),
    "png_inside": (GOOD_XML, picture("PNG"), "not_jpeg_inside"),
    "gif_inside": (GOOD_XML, picture("GIF"), "not_jpeg_inside"),
    "html_inside": (GOOD_XML, b"<html>404</html>", "not_jpeg_inside"),
    "lfs_pointer": (GOOD_XML, b"version https://git-lfs.github.com/spec/v1", "not_jpeg_inside"),
    "empty_xml": ("", PHOTO, "malformed_xml"),
    "cut_xml": (GOOD_XML[:90], PHOTO, "malformed_xml"),
    "latin1_xml": (b"<annotation><filename>\xff</filename></annotation>", PHOTO, "malformed_xml"),
    "bomb_xml": (BOMB, PHOTO, "forbidden_xml"),
    "leak_xml": (LEAK, PHOTO, "forbidden_xml"),
    "no_objects": (xml([]), PHOTO, "no_objects"),
    "no_box": (
        "<annotation><object><name>dog</name></object></annotation>",
        PHOTO,
        "no_usable_box",
    ),
    "no_name": (xml([(" ", 0, 3, 4, 30, 40)]), PHOTO, "no_usable_box"),
    "word_as_number": (xml([("dog", 0, "left", 4, 30, 40)]), PHOTO, "no_usable_box"),
    "nan_box": (xml([("dog", 0, "nan", 4, 30, 40)]), PHOTO, "no_usable_box"),
    "giant_number": (xml([("dog", 0, 3, 4, "1e300", 40)]), PHOTO, "no_usable_box"),
    "shares": (xml([("dog", 0, "0.1", "0.2", "0.5", "0.75")]), PHOTO, "no_usable_box"),
    "turned_by_half": (GOOD_XML, rotated(3), "exif_rotated"),
    "flat_box": (xml([("dog", 0, 3, 4, 30, 4)]), PHOTO, "no_usable_box"),
    "box_elsewhere": (xml([("dog", 0, 100, 4, 130, 40)]), PHOTO, "no_usable_box"),
    "box_left_of_all": (xml([("dog", 0, -50, 4, -3, 40)]), PHOTO, "no_usable_box"),
    "size_of_another": (xml([GOOD_BOX], (640, 480)), PHOTO, "size_mismatch"),
    "sides_swapped": (xml([GOOD_BOX], (48, 64)), PHOTO, "size_mismatch"),
    "xml_alone": (GOOD_XML, None, "no_image"),
    "jpeg_alone": (None, PHOTO, "no_annotation"),
    "same.key": (GOOD_XML, PHOTO, None),
    "same_key": (GOOD_XML, PHOTO, "duplicate_key"),
}
# Reported for the image's file; all else for the annotation's.
OF_THE_IMAGE = {"empty_image", "broken_image", "image_too_large", "not_jpeg_inside"}
OF_THE_IMAGE |= {"deep_image", "exif_rotated", "size_mismatch", "duplicate_key", "no_annotation"}
# stem: (annotation, image, boxes as they must be stored)
TAKEN = {
    "plain": (GOOD_XML, PHOTO, [[11, 3, 4, 27, 36]]),
    "grey": (GOOD_XML, jpeg(64, 48, mode="L"), [[11, 3, 4, 27, 36]]),
    "cmyk": (GOOD_XML, jpeg(64, 48, mode="CMYK"), [[11, 3, 4, 27, 36]]),
    "progressive": (GOOD_XML, jpeg(64, 48, progressive=True), [[11, 3, 4, 27, 36]]),
    "rotated_by_exif": (GOOD_XML, rotated(), [[11, 3, 4, 27, 36]]),
    "no_size": (xml([GOOD_BOX], None), PHOTO, [[11, 3, 4, 27, 36]]),
    "size_of_zero": (xml([GOOD_BOX], (0, 0)), PHOTO, [[11, 3, 4, 27, 36]]),
    "floats": (xml([("dog", 0, "3.9", "4.0", "30.2", "4e1")]), PHOTO, [[11, 3, 4, 27, 36]]),
    "odd_name": (xml([("  DoG\n", 0, 3, 4, 30, 40)]), PHOTO, [[11, 3, 4, 27, 36]]),
    "zero_based": (xml([("dog", 0, 0, 0, 64, 48)]), PHOTO, [[11, 0, 0, 64, 48]]),
    "unknown_class": (xml([("unicorn", 0, 3, 4, 30, 40)]), PHOTO, []),
    "beyond_edge": (xml([("dog", 0, -5, 4, 80, 40)]), PHOTO, [[11, 0, 4, 64, 36]]),
    "inverted_box": (xml([("dog", 0, 30, 4, 3, 40)]), PHOTO, [[11, 3, 4, 27, 36]]),
    "nameless": (xml([("", 0, 3, 4, 30, 40), GOOD_BOX]), PHOTO, [[11, 3, 4, 27, 36]]),
    "one_of_two": (xml([("cat", 0, 9, 4, 9, 40), GOOD_BOX]), PHOTO, [[11, 3, 4, 27, 36]]),
    "dotted.name.v2": (GOOD_XML, PHOTO, [[11, 3, 4, 27, 36]]),
    "größe 東京": (GOOD_XML, PHOTO, [[11, 3, 4, 27, 36]]),
    "n" * 200: (GOOD_XML, PHOTO, [[11, 3, 4, 27, 36]]),
    os.fsdecode(b"caf\xe9"): (GOOD_XML, PHOTO, [[11, 3, 4, 27, 36]]),
    "line\nbreak": (GOOD_XML, PHOTO, [[11, 3, 4, 27, 36]]),
}


@pytest.fixture
def hostile_root(voc_root, tmp_path):
    for stem, (annotation, image, _) in (REJECTED | TAKEN).items():
        voc_root.add(stem, annotation, image)
    images, xmls = voc_root.path / "JPEGImages", voc_root.path / "Annotations"
    voc_root.add("twice", GOOD_XML, PHOTO)
    (images / "twice.jpeg").write_bytes(PHOTO)
    (xmls / "._plain.xml").write_bytes(b"\0")
    (xmls / "classes.txt").write_text("dog")
    (images / "folder.jpg").mkdir()
    (images / "dangling.jpg").symlink_to("nowhere.jpg")
    (images / "ring.jpg").symlink_to("ring.jpg")
    outside = tmp_path / "elsewhere.jpg"
    outside.write_bytes(PHOTO)
    voc_root.add("linked_out", GOOD_XML, None)
    (images / "linked_out.jpg").symlink_to(outside)
    voc_root.add("linked_in", GOOD_XML, None)
    (images / "linked_in.jpg").symlink_to("plain.jpg")
    os.mkfifo(images / "pipe.jpg")
    voc_root.add("device", GOOD_XML, None)
    (images / "device.jpg").symlink_to("/dev/zero")
    return voc_root.path


BY_NAME = {
    "twice.xml": "duplicate_image",
    "._plain.xml": "hidden_file",
    "classes.txt": "not_xml",
    "folder.jpg": "not_a_file",
    "dangling.jpg": "not_a_file",
    "ring.jpg": "not_a_file",
    "pipe.jpg": "not_a_file",
    "device.jpg": "not_a_file",
    "device.xml": "no_image",
    "linked_out.jpg": "link_out_of_tree",
    "linked_out.xml": "no_image",
}


def rejections(output):
    return [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_file_is_taken_as_it_should_be_or_reported_with_its_reason(
    hostile_root, make, tmp_path, workers
):
    output = tmp_path / "out"
    manifest = make(hostile_root, output, max_rejected=1.0, workers=workers)
    assert load_manifest(output) == manifest
    files = [r for r in rejections(output) if r["what"] == "file"]
    found = {}
    for item in files:
        folder, _, name = item["file"].partition("/")
        assert folder in ("Annotations", "JPEGImages")
        assert item["detail"]
        found[name] = item["reason"]
    expected = dict(BY_NAME)
    expected |= {
        f"{stem}.jpg" if reason in OF_THE_IMAGE else f"{stem}.xml": reason
        for stem, (_, _, reason) in REJECTED.items()
        if reason
    }
    assert found == expected
    assert len(files) == len(found) == sum(manifest.left_out.values())
    assert manifest.boxes_left_out == {
        "bad_box": 3,
        "box_in_shares": 1,
        "box_outside_image": 2,
        "empty_box": 2,
        "missing_box": 1,
        "missing_name": 2,
    }
    assert manifest.changed == {"corners_swapped": 1}
    assert (manifest.boxes_clipped, manifest.unknown_objects) == (1, {"unicorn": 1})
    notes = {r["file"]: r["reason"] for r in rejections(output) if r["what"] != "file"}
    assert notes["Annotations/beyond_edge.xml"] == "box_beyond_edge"
    assert notes["Annotations/one_of_two.xml"] == "empty_box"
    assert str(hostile_root) not in (output / "rejected.jsonl").read_text()


def test_what_is_taken_is_stored_as_it_is_and_decodes(hostile_root, make, tmp_path):
    make(hostile_root, tmp_path / "out", max_rejected=1.0)
    stored = {}
    for split in ("train", "val"):
        reader = ShardReader(tmp_path / "out", split)
        stored |= {reader.read(i).annotations.key: reader.read(i) for i in range(len(reader))}
    keys = {
        "dotted.name.v2": "dotted_name_v2",
        "größe 東京": "größe_東京",
        os.fsdecode(b"caf\xe9"): "caf_",
        "line\nbreak": "line_break",
        "n" * 200: next(key for key in stored if key.startswith("nnn")),
    }
    for stem, (_, image, boxes) in TAKEN.items():
        sample = stored[keys.get(stem, stem)]
        assert sample.jpeg == image
        assert sample.annotations.boxes.tolist() == boxes
        # EXIF says that the picture stands on its side; the boxes are those of the stored one.
        assert (sample.annotations.width, sample.annotations.height) == (64, 48)
        assert decode_image(sample.jpeg, stem).shape == (3, 48, 64)
    assert len(stored) == len(TAKEN) + 2  # linked_in and the first of the equal keys
    assert "linked_in" in stored and "same_key" in stored


def test_links_out_of_the_tree_are_taken_when_asked(hostile_root, make, tmp_path):
    manifest = make(hostile_root, tmp_path / "out", max_rejected=1.0, follow_links=True)
    assert "link_out_of_tree" not in manifest.left_out
    assert manifest.left_out["not_a_file"] == 5


@pytest.mark.parametrize("stem", [*(stem for stem, case in REJECTED.items() if case[2])])
def test_strict_stops_at_the_file_and_says_why(voc_root, make, tmp_path, stem):
    voc_root.fill(3)
    for name in {stem, "same.key"} if stem == "same_key" else {stem}:
        voc_root.add(name, *REJECTED[name][:2])
    with pytest.raises(UserError) as caught:
        make(voc_root.path, tmp_path / "out", strict=True)
    message = str(caught.value)
    # Where all boxes are lost, the first of them is what is to be mended.
    reasons = (REJECTED[stem][2], "empty_box", "box_outside_image")
    assert stem in message and any(f"({reason})" in message for reason in reasons)
    assert "mend it" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "stem", ["one_of_two", "beyond_edge", "unknown_class", "inverted_box", "nameless"]
)
def test_strict_stops_at_single_boxes_too(voc_root, make, tmp_path, stem):
    voc_root.fill(3).add(stem, *TAKEN[stem][:2])
    with pytest.raises(UserError, match=rf"Annotations/{stem}\.xml: .*strict=false"):
        make(voc_root.path, tmp_path / "out", strict=True)


def test_strict_takes_a_clean_data_set_and_hidden_files(small_root, make, tmp_path, small_shards):
    root = shutil.copytree(small_root, tmp_path / "voc")
    (root / "JPEGImages/.DS_Store").write_bytes(b"\0")
    manifest = make(root, tmp_path / "out", strict=True, max_rejected=0)
    assert manifest.left_out == {"hidden_file": 1}
    assert manifest.splits == load_manifest(small_shards).splits


def test_more_than_a_share_rejected_is_an_error_that_names_the_reasons(voc_root, make, tmp_path):
    voc_root.fill(8)
    for i in range(2):
        voc_root.add(f"bad{i}", GOOD_XML, b"")
    with pytest.raises(UserError, match=r"2 of 10 files \(20\.0%\).*max_rejected=0\.1") as caught:
        make(voc_root.path, tmp_path / "out")
    assert "2 empty_image, as JPEGImages/bad0.jpg" in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert make(voc_root.path, tmp_path / "out", max_rejected=0.2).left_out == {"empty_image": 2}


def test_nothing_usable_is_an_error_whatever_the_share(voc_root, make, tmp_path):
    voc_root.add("bad", GOOD_XML, b"")
    with pytest.raises(UserError, match="nothing to convert"):
        make(voc_root.path, tmp_path / "out", max_rejected=1.0)


def test_a_file_that_changes_or_vanishes_after_it_was_checked_stops_the_run(voc_root, tmp_path):
    from vocdist.shards.convert import convert
    from vocdist.shards.format import SplitRule
    from vocdist.shards.samples import samples_of
    from vocdist.voc.classes import VOC_CLASSES

    voc_root.fill(6)
    samples = samples_of(
        voc_root.path,
        VOC_CLASSES,
        split_lists=False,
        split_ratio=0.8,
        split_seed=1,
        skip_difficult=False,
    )
    settings = {
        "name": "x",
        "classes": VOC_CLASSES,
        "split_rule": SplitRule(kind="seeded", ratio=0.8, seed=1),
        "skip_difficult": False,
        "samples_per_shard": 2,
    }
    image = voc_root.path / "JPEGImages/2007_000003.jpg"
    content = image.read_bytes()
    image.write_bytes(PHOTO)
    with pytest.raises(UserError, match=r"2007_000003\.jpg: changed while"):
        convert(samples, tmp_path / "out", **settings)
    image.unlink()
    with pytest.raises(UserError, match=r"2007_000003\.jpg: cannot be read any more"):
        convert(samples, tmp_path / "out", workers=2, **settings)
    assert not (tmp_path / "out/manifest.json").exists()
    image.write_bytes(content)
    assert convert(samples, tmp_path / "out", **settings).splits["train"].samples == 4


def test_without_decoding_only_damage_inside_goes_unseen(hostile_root, make, tmp_path):
    whole = make(hostile_root, tmp_path / "whole", max_rejected=1.0)
    fast = make(hostile_root, tmp_path / "fast", max_rejected=1.0, decode=False)
    seen = {stem for stem, case in REJECTED.items() if case[2] == "broken_image"}
    assert whole.left_out["broken_image"] == len(seen)
    expected = whole.left_out | {"broken_image": len(seen - {"damaged_jpeg"})}
    assert fast.left_out == expected


def test_a_film_behind_the_picture_is_no_damage(voc_root, make, tmp_path, hashes):
    film = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 8
    for number in range(4):
        voc_root.add(f"motion{number}", GOOD_XML, jpeg(64, 48, number) + film)
    voc_root.add("cut", GOOD_XML, PHOTO[: len(PHOTO) // 2])
    voc_root.add("cut_with_film", GOOD_XML, PHOTO[: len(PHOTO) // 2] + film)
    for decode in (True, False):
        manifest = make(voc_root.path, tmp_path / str(decode), decode=decode, max_rejected=0.5)
        assert manifest.left_out == {"broken_image": 2}
    assert hashes(tmp_path / "True") == hashes(tmp_path / "False")


def test_grey_and_cmyk_are_the_colours_that_pillow_sees():
    for mode in ("L", "CMYK"):
        encoded = jpeg(64, 48, seed=4, mode=mode)
        with Image.open(io.BytesIO(encoded)) as image:
            expected = np.array(image.convert("RGB"), dtype=int)
        found = decode_image(encoded, mode).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(found - expected).max() <= 2


def test_a_jpeg_of_twelve_bits_is_named_with_the_remedy_wherever_it_is_met(voc_root, tmp_path):
    voc_root.add("xray", GOOD_XML, deep())
    image = voc_root.path / "JPEGImages/xray.jpg"
    draw = runpy.run_path(str(REPO / "scripts/visualize.py"))["main"]
    readers = {
        "checked_size": lambda: checked_size(deep()),
        "decode_image": lambda: decode_image(deep(), "xray"),
        "image_size": lambda: image_size(image),
        "image_pixels": lambda: image_pixels(image),
        "visualize": lambda: draw([str(voc_root.path), f"output={tmp_path / 'out'}"]),
    }
    for name, read in readers.items():
        with pytest.raises((UserError, BadImage)) as caught:
            read()
        assert "a JPEG of 12 bits a channel: store it with 8" in str(caught.value), name
        if name in ("image_pixels", "visualize"):
            assert "xray.jpg: " in str(caught.value)
    assert bits_a_channel(PHOTO) == bits_a_channel(PHOTO[:3]) == bits_a_channel(b"") == 8
    # A filling byte before a segment's mark, and a preview's frame inside a segment.
    preview = b"\xff\xe1" + (len(deep()) + 2).to_bytes(2, "big") + deep()
    assert bits_a_channel(PHOTO[:2] + preview + b"\xff" + PHOTO[2:]) == 8
    assert bits_a_channel(deep()[:2] + b"\xff" + deep()[2:]) == 12
