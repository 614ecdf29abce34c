"""Data sets that are not VOC's: own classes, official lists, images made smaller."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from voc_on_disk import jpeg, xml

from vocdist.errors import UserError
from vocdist.shards.format import load_manifest
from vocdist.shards.images import Shrink, fit_long_side, shrink_jpeg, shrink_rows
from vocdist.shards.reader import ShardReader
from vocdist.shards.samples import samples_of
from vocdist.shards.verify import verify_shards

HELMETS = ("Hard Hat", "vest", "person")


def test_three_classes_of_ones_own(voc_root, make, tmp_path):
    names = ("hard hat", "VEST", " person", "dog")
    for i in range(12):
        objects = [(names[i % 4], 0, 3, 4, 30, 40), (names[(i + 1) % 4], 0, 1, 1, 9, 9)]
        voc_root.add(f"frame.{i}", xml(objects), jpeg(64, 48, i))
    manifest = make(voc_root.path, tmp_path / "out", classes=HELMETS, workers=2)
    assert manifest.classes == HELMETS
    assert manifest.unknown_objects == {"dog": 6}
    for counts in ("class_images", "class_objects"):
        totals = [getattr(split, counts) for split in manifest.splits.values()]
        assert {name: sum(t[name] for t in totals) for name in HELMETS} == dict.fromkeys(HELMETS, 6)
    reader = ShardReader(tmp_path / "out", "train")
    assert reader.labels.shape == (9, 3)
    assert verify_shards(tmp_path / "out") == []


def test_forgotten_classes_are_asked_for_by_name(voc_root, make, tmp_path):
    for i in range(4):
        objects = [("Hard Hat", 0, 3, 4, 30, 40), ("vest", 0, 1, 1, 9, 9)]
        voc_root.add(f"frame{i}", xml(objects), jpeg(64, 48, i))
    advice = r"hard hat \(4\), vest \(4\): pass them, as classes=\[hard hat,vest\]"
    with pytest.raises(UserError, match=advice):
        make(voc_root.path, tmp_path / "out")


def write_lists(root, **lists):
    folder = root / "ImageSets/Main"
    folder.mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def stem(i):
    return f"2007_{i:06d}"


def test_official_lists_are_followed_in_their_order(voc_root, make, tmp_path):
    root = voc_root.fill(10).path
    write_lists(root, train=[stem(7), stem(2), stem(5)], val=[stem(0)])
    manifest = make(root, tmp_path / "out", split_lists=True)
    assert manifest.split_rule.kind == "lists"
    assert manifest.left_out == {"not_in_a_list": 6}
    keys = [a.key for a in ShardReader(tmp_path / "out", "train").annotations]
    assert keys == [stem(7), stem(2), stem(5)]


def test_a_listed_image_that_is_not_there_or_broken_is_reported_once(voc_root, make, tmp_path):
    root = voc_root.fill(4).path
    voc_root.add(stem(4), xml([("dog", 0, 3, 4, 30, 40)]), b"")
    write_lists(root, train=[stem(0), stem(1), stem(4), "ghost"], val=[stem(2), stem(3)])
    with pytest.raises(UserError, match="listed_in_vain.*ghost"):
        make(root, tmp_path / "out", split_lists=True)
    manifest = make(root, tmp_path / "out", split_lists=True, max_rejected=0.5)
    assert manifest.left_out == {"empty_image": 1, "listed_in_vain": 1}
    lines = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["file"] for line in lines} == {
        f"JPEGImages/{stem(4)}.jpg",
        "ImageSets/Main/train.txt",
    }
    with pytest.raises(UserError, match="ghost"):
        (root / f"JPEGImages/{stem(4)}.jpg").write_bytes(jpeg(64, 48))
        make(root, tmp_path / "strict", split_lists=True, strict=True)


def test_difficult_boxes_are_left_out_and_counted_when_asked(voc_root, make, tmp_path):
    for i in range(5):
        hard = [("cat", 1, 1, 1, 9, 9)] * i
        voc_root.add(stem(i), xml([("dog", 0, 3, 4, 30, 40), *hard]), jpeg(64, 48, i))
    voc_root.add(stem(5), xml([("cat", 1, 1, 1, 9, 9)]), jpeg(64, 48))
    manifest = make(voc_root.path, tmp_path / "out", skip_difficult=True)
    assert manifest.boxes_left_out == {"difficult": 11}
    assert sum(split.objects for split in manifest.splits.values()) == 5
    # The image whose only cat is difficult would be one of nothing.
    assert sum(split.samples for split in manifest.splits.values()) == 5
    assert manifest.left_out == {"only_difficult": 1}


def test_images_made_smaller_are_recorded_as_stored(voc_root, make, tmp_path, hashes):
    for i in range(6):
        box = ("dog", 0, 11, 21, 110, 120)
        voc_root.add(f"large{i}", xml([box], (200, 150)), jpeg(200, 150, i, quality=95))
        voc_root.add(f"small{i}", xml([("cat", 0, 1, 1, 9, 9)], (80, 60)), jpeg(80, 60, i))
    outputs = [tmp_path / name for name in ("one", "two")]
    for workers, output in enumerate(outputs, start=1):
        manifest = make(voc_root.path, output, shrink=Shrink(100, 90), workers=workers)
    assert hashes(outputs[0]) == hashes(outputs[1])
    assert manifest.image_rule.model_dump() == {"max_side": 100, "jpeg_quality": 90}
    assert load_manifest(outputs[0]) == manifest
    assert verify_shards(outputs[0]) == []
    reader = ShardReader(outputs[0], "train")
    for index, notes in enumerate(reader.annotations):
        stored = reader.read(index).jpeg
        source = (voc_root.path / f"JPEGImages/{notes.key}.jpg").read_bytes()
        if notes.key.startswith("small"):
            assert stored == source
            assert notes.boxes.tolist() == [[7, 1, 1, 8, 8]]
            continue
        assert (notes.width, notes.height) == (100, 75)
        assert notes.boxes.tolist() == [[11, 6, 11, 49, 49]]
        with Image.open(io.BytesIO(stored)) as image, Image.open(io.BytesIO(source)) as original:
            expected = np.array(original.resize((100, 75), Image.Resampling.BICUBIC), dtype=int)
            assert np.abs(np.array(image, dtype=int) - expected).mean() < 3
    # The restart knows them by their hash, too.
    (outputs[0] / "train-000000.tar").unlink()
    make(voc_root.path, outputs[0], shrink=Shrink(100, 90))
    assert hashes(outputs[0]) == hashes(outputs[1])


@pytest.mark.parametrize(("mode", "stored"), [("L", "L"), ("RGB", "RGB"), ("CMYK", "RGB")])
def test_colours_of_images_made_smaller(mode, stored):
    exif = Image.Exif()
    exif[0x0112] = 6
    small = shrink_jpeg(jpeg(80, 60, mode=mode, exif=exif), (40, 30), quality=90)
    with Image.open(io.BytesIO(small)) as image:
        assert (image.mode, image.size) == (stored, (40, 30))
        # Or viewers would turn what the boxes were not turned for.
        assert not image.getexif()


SIDES = st.integers(1, 5_000)


@given(SIDES, SIDES, st.integers(1, 2_000))
def test_the_long_side_is_bounded_and_nothing_grows(width, height, max_side):
    new = fit_long_side(width, height, max_side)
    assert max(new) <= max(max_side, 1)
    assert new[0] <= width and new[1] <= height and min(new) >= 1
    if max(width, height) <= max_side:
        assert new == (width, height)


@given(st.data(), SIDES, SIDES, st.integers(1, 2_000))
def test_boxes_stay_boxes_inside_the_image(data, width, height, max_side):
    corners = []
    for side in (width, height):
        start = data.draw(st.integers(0, side - 1))
        corners.append((start, data.draw(st.integers(start + 1, side))))
    (x1, x2), (y1, y2) = corners
    new = fit_long_side(width, height, max_side)
    rows = shrink_rows([[3, x1, y1, x2 - x1, y2 - y1]], (width, height), new)
    ((class_id, x, y, w, h),) = rows
    assert class_id == 3
    assert 0 <= x < x + w <= new[0] and 0 <= y < y + h <= new[1]
    # No corner moves by more than what rounding and a smallest box take.
    assert abs((x - 1) - (x1 - 1) * new[0] / width) <= 2
    if new == (width, height) and x2 - x1 > 1:
        assert (x, w) == (x1, x2 - x1)


def test_boxes_that_are_percent_are_named(voc_root, make):
    """On an image of 240 x 320; what the boxes are in is said by all of them together."""

    def notes(*more: tuple[int, int, int, int], size: tuple[int, int] = (240, 320)):
        for i in range(5):
            boxes = [(10 * i, 2, 10 * i + 20, 40), (3, 50, 60, 55 + 10 * i), *more[i : i + 1]]
            objects = [("dog", 0, *box) for box in boxes]
            voc_root.add(f"frame{i}", xml(objects, size), jpeg(*size, i))
        samples = samples_of(
            voc_root.path,
            ("dog",),
            split_lists=False,
            split_ratio=0.8,
            split_seed=0,
            skip_difficult=False,
        )
        return [note for note in samples.notes if "percent" in note]

    (note,) = notes()
    assert note.startswith(
        "all 10 boxes end within 100 pixels, on images of 240 and more: if their"
    )
    assert notes((1, 1, 101, 20)) == []
    assert notes(size=(120, 320)) == []
