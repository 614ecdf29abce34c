"""Photographs that are stored turned: boxes end up on their objects, or the image is refused."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from voc_on_disk import jpeg, xml

from vocdist.shards.images import Shrink, as_drawn_on, orientation_of, to_stored, upright_size
from vocdist.shards.reader import ShardReader
from vocdist.shards.verify import verify_shards
from vocdist.voc.annotation import VocObject, rows_to_xyxy

ORIENTATIONS = range(1, 9)
QUARTERS = (5, 6, 7, 8)
BOX = (11, 5, 30, 20)  # xmin, ymin, xmax, ymax on the upright picture


def photograph(orientation: int, upright: tuple[int, int] = (64, 48), box=BOX) -> bytes:
    """A white box on black, stored as a camera stores it that was held another way."""
    pixels = np.zeros((upright[1], upright[0]), np.uint8)
    pixels[box[1] - 1 : box[3], box[0] - 1 : box[2]] = 255
    # The inverse of what a viewer does: each orientation undoes itself, but for two quarters.
    exif = Image.Exif()
    exif[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    stored = ImageOps.exif_transpose(Image.open(stream)).convert("RGB")
    exif[0x0112] = orientation
    stream = io.BytesIO()
    stored.save(stream, "JPEG", quality=98, subsampling=0, exif=exif)
    return stream.getvalue()


def white_share(folder) -> list[float]:
    """Of each stored sample: how white its first box is, and how black what is outside."""
    shares = []
    for split in ("train", "val"):
        reader = ShardReader(folder, split)
        for index in range(len(reader)):
            sample = reader.read(index)
            pixels = np.asarray(Image.open(io.BytesIO(sample.jpeg)).convert("L"), float) / 255
            notes = sample.annotations
            assert pixels.shape == (notes.height, notes.width)
            rows = rows_to_xyxy(notes.boxes, notes.width, notes.height)
            x1, y1, x2, y2 = rows[0].astype(int)
            inside = pixels[y1:y2, x1:x2].mean()
            outside = (pixels.sum() - pixels[y1:y2, x1:x2].sum()) / pixels.size
            shares.append(inside - outside)
    return shares


@pytest.mark.parametrize("shrink", [None, Shrink(40, 95)])
def test_boxes_of_upright_pictures_lie_on_their_objects(voc_root, make, tmp_path, shrink):
    for orientation in ORIENTATIONS:
        size = (64, 48) if orientation in (1, *QUARTERS) else None
        voc_root.add(f"o{orientation}", xml([("dog", 0, *BOX)], size), photograph(orientation))
    manifest = make(voc_root.path, tmp_path / "out", exif_boxes="upright", shrink=shrink)
    assert manifest.changed == {"exif_turned": 7}
    assert manifest.left_out == {} and manifest.boxes_clipped == 0
    shares = white_share(tmp_path / "out")
    assert len(shares) == 8 and min(shares) > (0.95 if shrink is None else 0.8)
    assert verify_shards(tmp_path / "out") == []


def test_what_the_sizes_tell_needs_no_setting(voc_root, make, tmp_path):
    for orientation in QUARTERS:
        image = photograph(orientation)
        voc_root.add(f"upright{orientation}", xml([("dog", 0, *BOX)], (64, 48)), image)
        turned = to_stored([VocObject("dog", *BOX, False, False)], (48, 64), orientation)[0]
        corners = (turned.xmin, turned.ymin, turned.xmax, turned.ymax)
        voc_root.add(f"stored{orientation}", xml([("dog", 0, *corners)], (48, 64)), image)
    # Whatever is set: where the XML's size tells, it decides.
    for chosen in ("auto", "upright", "stored"):
        manifest = make(voc_root.path, tmp_path / chosen, exif_boxes=chosen, strict=True)
        assert manifest.changed == {"exif_turned": 4}
        assert min(white_share(tmp_path / chosen)) > 0.95
    lines = (tmp_path / "auto/rejected.jsonl").read_text().splitlines()
    notes = [json.loads(line) for line in lines]
    assert {note["file"] for note in notes} == {f"JPEGImages/upright{o}.jpg" for o in QUARTERS}
    assert all("EXIF" in note["detail"] for note in notes)


def test_what_cannot_be_known_is_left_out_by_name(voc_root, make, tmp_path):
    voc_root.fill(3)
    square = photograph(6, (48, 48))
    unknown = {
        "half": (xml([("dog", 0, *BOX)]), photograph(3)),
        "mirror": (xml([("dog", 0, *BOX)]), photograph(2)),
        "square": (xml([("dog", 0, *BOX)], (48, 48)), square),
        "no_size": (xml([("dog", 0, *BOX)], None), photograph(8)),
    }
    for stem, files in unknown.items():
        voc_root.add(stem, *files)
    # Nothing is drawn on it, so nothing can be misplaced.
    voc_root.add("of_nothing", xml([("unicorn", 0, *BOX)]), photograph(3))
    manifest = make(voc_root.path, tmp_path / "out", max_rejected=0.9)
    assert manifest.left_out == {"exif_rotated": 4} and manifest.changed == {}
    lines = (tmp_path / "out/rejected.jsonl").read_text().splitlines()
    for note in map(json.loads, lines):
        assert "EXIF orientation" in note["detail"] and "exif_boxes=upright" in note["detail"]
    stored = make(voc_root.path, tmp_path / "stored", exif_boxes="stored")
    assert stored.left_out == {} and stored.changed == {}


def test_a_size_of_neither_picture_names_the_orientation(voc_root, make, tmp_path):
    voc_root.fill(3).add("other", xml([("dog", 0, *BOX)], (640, 480)), photograph(6))
    make(voc_root.path, tmp_path / "out", max_rejected=0.5)
    note = json.loads((tmp_path / "out/rejected.jsonl").read_text())
    assert note["reason"] == "size_mismatch" and "EXIF: turned by a quarter" in note["detail"]


@pytest.mark.parametrize(
    "tags", [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"\xff" * 40]
)
def test_broken_exif_is_none(tags):
    assert orientation_of(jpeg(64, 48, exif=tags)) == 1


@pytest.mark.parametrize(
    "before",
    [
        b"",
        # Photoshop's segment, whose thumbnail has a start of scan of its own.
        b"\xff\xed\x00\x08\xff\xda\xff\xd9\xff\xda",
        b"\xff\xe2\xff\xff" + bytes(65533),
        # Filling bytes before a marker, which the standard allows.
        b"\xff\xff\xff",
    ],
)
def test_exif_is_found_wherever_in_the_header_it_is(before):
    turned = photograph(6)
    assert orientation_of(turned[:2] + before + turned[2:]) == 6


def test_words_of_exif_in_the_coded_picture_are_none_and_cost_nothing(monkeypatch):
    plain = jpeg(64, 48)
    monkeypatch.setattr("vocdist.shards.images.Image.open", lambda _: pytest.fail("opened"))
    assert orientation_of(plain + b"Exif\0\0") == 1
    assert orientation_of(plain[:2]) == orientation_of(b"\xff\xd8\xff\xe1") == 1


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_exif_does_not_know_is_none(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert orientation_of(jpeg(64, 48, exif=exif)) == 1


@given(st.data(), st.sampled_from(ORIENTATIONS), st.integers(2, 50), st.integers(2, 50))
def test_turned_boxes_are_boxes_inside_the_stored_picture(data, orientation, width, height):
    upright = upright_size((width, height), orientation)
    corners = []
    for side in upright:
        low = data.draw(st.integers(0, side - 1))
        corners.append((low, data.draw(st.integers(low + 1, side))))
    (x1, x2), (y1, y2) = corners
    (box,) = to_stored([VocObject("a", x1, y1, x2, y2, False, False)], (width, height), orientation)
    assert 0 <= box.xmin < box.xmax <= width and 0 <= box.ymin < box.ymax <= height


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_photograph_is_shown_as_its_boxes_were_drawn_on_it(orientation):
    def whiteness(stated, box):
        image, note = as_drawn_on(photograph(orientation), stated)
        pixels = np.asarray(image.convert("L"), float) / 255
        x1, y1, x2, y2 = rows_to_xyxy(
            np.array([[0, box.xmin, box.ymin, box.xmax - box.xmin, box.ymax - box.ymin]]),
            *image.size,
        )[0].astype(int)
        inside = pixels[y1:y2, x1:x2]
        return inside.mean() - (pixels.sum() - inside.sum()) / pixels.size, note

    upright = VocObject("dog", *BOX, False, False)
    share, note = whiteness((64, 48), upright)
    assert share > 0.95
    # A half turn and a mirror leave the sides as they are: which picture was meant is not known.
    assert bool(note) is (orientation in (2, 3, 4))
    if orientation in QUARTERS:
        stored = to_stored([upright], (48, 64), orientation)[0]
        assert whiteness((48, 64), stored)[0] > 0.95
