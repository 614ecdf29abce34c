"""Pixels of an export's images: what is stored anew, scaled, or left out."""

import resource
import struct
import zlib

import numpy as np
import pytest
from annotations import ONE_DOG
from PIL import Image

from vocdist.errors import DISK_FULL, UserError
from vocdist.voc.arrange import arrange

GREY = np.linspace(0.2, 0.8, 40 * 50).reshape(40, 50)


def grey_export(folder, pixels, suffix=".png", stem="a"):
    add_xml(folder, stem)
    Image.fromarray(pixels).save(folder / f"{stem}{suffix}")
    return folder


def add_xml(folder, stem):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.xml").write_text(ONE_DOG.replace("a.jpg", f"{stem}.jpg"))


def stored(root, stem="a"):
    return np.asarray(Image.open(root / f"JPEGImages/{stem}.jpg").convert("L")).astype(float)


@pytest.mark.parametrize(
    ("pixels", "suffix", "note"),
    [
        ((GREY * 65535).astype(np.uint16), ".png", "mode I;16 were scaled to 8 bits, 0 to 65535"),
        ((GREY * 65535).astype(np.uint16), ".tif", "mode I;16 were scaled to 8 bits, 0 to 65535"),
        ((GREY * 65535).astype(np.int32), ".tif", "mode I were scaled to 8 bits, 0 to 65535"),
        (GREY.astype(np.float32), ".tif", "mode F were scaled to 8 bits, 0 to 1 becoming"),
    ],
)
def test_deep_images_are_scaled_by_the_range_of_their_format(tmp_path, pixels, suffix, note):
    made = arrange(grey_export(tmp_path / "export", pixels, suffix), tmp_path / "voc")
    assert np.abs(stored(tmp_path / "voc") - GREY * 255).max() < 3
    assert len(made.notes) == 1 and note in made.notes[0]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ((GREY * 4095).astype(np.uint16), r"a.tif: the lightest of 1 images of mode I;16"),
        ((GREY * 1000).astype(np.float32), r"a.tif: mode F with values from 200 to 800"),
        ((GREY - 0.5).astype(np.float32), r"a.tif: mode F with values from -0.3"),
        (np.where(GREY > 0.5, np.nan, GREY).astype(np.float32), r"a.tif: mode F with .* nan"),
        ((GREY * 2**20).astype(np.int32), r"a.tif: mode I with values from 209715"),
    ],
)
def test_images_of_which_nobody_says_what_is_white_are_refused(tmp_path, pixels, message):
    export = grey_export(tmp_path / "export", pixels, ".tif")
    with pytest.raises(UserError, match=message + r".*magick a.tif"):
        arrange(export, tmp_path / "voc")
    assert not (tmp_path / "voc").exists()


def test_colours_of_16_bits_are_scaled_and_counted(tmp_path):
    """Pillow does not write such a PNG: its three chunks by hand."""
    add_xml(tmp_path / "export", "a")
    colors = np.repeat((GREY * 65535).astype(">u2")[:, :, None], 3, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in colors)  # each after its filter, none
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 50, 40, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    (tmp_path / "export/a.png").write_bytes(png)
    made = arrange(tmp_path / "export", tmp_path / "voc")
    assert np.abs(stored(tmp_path / "voc") - GREY * 255).max() < 3
    assert len(made.notes) == 1 and "1 images of 16 bits a colour were scaled" in made.notes[0]


def test_one_dark_image_among_others_of_16_bits_stays_dark(tmp_path):
    export = grey_export(tmp_path / "export", (GREY * 65535).astype(np.uint16))
    grey_export(export, (GREY * 2000).astype(np.uint16), stem="night")
    arrange(export, tmp_path / "voc")
    assert stored(tmp_path / "voc", "night").max() < 12


def test_the_content_decides_what_a_file_is(tmp_path, add_pair, draw, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    for name, kind in (("a.jpg", "PNG"), ("b.JPG", "WEBP"), ("c.png", "JPEG"), ("d.jfif", "JPEG")):
        add_pair(export / name)
        draw(export / name, kind)
    made = arrange(export, root)
    assert names(root / "JPEGImages") == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    for name, kept in (("c.png", "c.jpg"), ("d.jfif", "d.jpg")):
        assert (root / "JPEGImages" / kept).read_bytes() == (export / name).read_bytes()
    assert made.reencoded == 2
    assert {note.partition(":")[0] for note in made.notes} == {
        "1 files are PNG under another suffix",
        "1 files are WEBP under another suffix",
        "1 files are JPEG under another suffix",
    }


def test_stacks_are_left_out_and_reduced_versions_in_a_tiff_are_none(tmp_path, draw, names):
    export, root = tmp_path / "export", tmp_path / "voc"
    for stem in "abc":
        add_xml(export, stem)
    draw(export / "a.jpg")
    frames = [Image.new("RGB", (50, 40), shade) for shade in ("red", "blue")]
    frames[0].save(export / "b.tif", save_all=True, append_images=frames[1:])
    small = frames[1].resize((25, 20))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    frames[0].save(export / "c.tif", save_all=True, append_images=[small])
    made = arrange(export, root)
    assert names(root / "JPEGImages") == ["a.jpg", "c.jpg"]
    assert made.images == 2
    assert made.notes == (
        "1 images of several frames were left out, as b.tif (2 frames): store the frame that was "
        "labelled as a file",
    )


def test_an_orientation_goes_with_the_pixels(tmp_path, draw):
    export, root = tmp_path / "export", tmp_path / "voc"
    add_xml(export, "a")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(draw(export / "a.png")).save(export / "a.png", exif=exif)
    arrange(export, root)
    with Image.open(root / "JPEGImages/a.jpg") as image:
        assert (image.getexif()[0x0112], image.size) == (6, (50, 40))


def test_dropped_transparency_is_counted(tmp_path):
    export = tmp_path / "export"
    for stem, alpha in (("a", 100), ("b", 255)):
        add_xml(export, stem)
        Image.new("RGBA", (50, 40), (9, 9, 9, alpha)).save(export / f"{stem}.png")
    made = arrange(export, tmp_path / "voc")
    assert made.notes == ("1 images lost their transparency, their colours stayed",)


def test_a_full_disk_names_the_output(tmp_path, draw):
    """A limit on the size of files stands for the disk: both end in one of `DISK_FULL`."""
    export, root = tmp_path / "export", tmp_path / "voc"
    add_xml(export, "a")
    draw(export / "a.png")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            arrange(export, root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno in DISK_FULL
    assert caught.value.filename == str(root)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
