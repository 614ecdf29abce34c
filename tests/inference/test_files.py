import codecs
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vocdist.errors import UserError
from vocdist.inference.files import all_images, find_images
from vocdist.inference.images import as_images


@pytest.fixture
def photo() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))


def saved(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def test_places_become_files(photo: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    a, b = saved(photo, tmp_path / "b.png"), saved(photo, tmp_path / "deep" / "a.JPG")
    (tmp_path / "notes.md").write_text("no image")
    names = tmp_path / "names.txt"
    names.write_text(f"{b}\n\n{a}\n")
    assert all_images([tmp_path]) == [a, b]
    assert all_images([f"{tmp_path}/**/*.JPG"]) == [b]
    assert all_images([names, b]) == [b, a]
    assert as_images(str(a)) == [a]
    assert as_images([photo, a]) == [photo, a]
    for place in ("none.jpg", "*.gif", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=r"no such file|no file has|holds no image"):
            find_images([tmp_path / place])


def test_lists_have_quotes_comments_and_paths_beside_them(
    tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lists"
    (folder / "photos").mkdir(parents=True)
    beside = saved(photo, folder / "photos" / "a b.png")
    odd = saved(photo, folder / "#1.png")
    here = saved(photo, tmp_path / "here.png")
    monkeypatch.chdir(tmp_path)
    listed = folder / "list.txt"
    lines = ["# my photographs", f'"{beside}"', "photos/a b.png", "#1.png", "'here.png'"]
    listed.write_text("\r\n".join(lines), encoding="utf-8-sig")
    assert [path.resolve() for path in all_images([listed])] == [beside, odd, here]


def test_a_line_that_leads_nowhere_keeps_no_other_from_being_found(
    tmp_path: Path, photo: Image.Image
) -> None:
    (tmp_path / "empty").mkdir()
    images = [saved(photo, tmp_path / name) for name in ("a.png", "b.png")]
    listed, inner = tmp_path / "list.txt", tmp_path / "inner.txt"
    lines = ["a.png", "gone.png", "*.gif", "empty", "x" * 5000, "inner.txt", "b.png"]
    listed.write_text("\n".join(lines))
    inner.write_text("lost.png\nlist.txt\n")
    found = find_images([listed, listed])
    assert found.files == images
    reasons = {one.name: one.reason for one in found.missing}
    assert list(reasons) == ["gone.png", "*.gif", "empty", "x" * 5000, "lost.png", "list.txt"]
    assert len(found.missing) == len(reasons)
    assert reasons["gone.png"].startswith(f"{listed}, line 2: no such file or folder (looked for")
    assert (
        reasons["empty"]
        == f"{listed}, line 4: {tmp_path}/empty: holds no image that Pillow can open"
    )
    assert reasons["lost.png"].startswith(f"{inner}, line 1: no such file")
    assert "a list that leads back to itself" in reasons["list.txt"]
    # From Python all are wanted, as with images that cannot be read.
    with pytest.raises(UserError, match=r"gone\.png: .*line 2: .* \(and 5 others\): correct"):
        as_images(listed)
    with pytest.raises(UserError, match=r"lost\.png: .* \(and 1 others\): no line leads to"):
        inner.write_text("lost.png\ngone.png\n")
        find_images([inner])


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_lists_are_read_as_windows_writes_them(
    tmp_path: Path, photo: Image.Image, mark: bytes, encoding: str
) -> None:
    (tmp_path / "bilder" / "neu").mkdir(parents=True)
    image = saved(photo, tmp_path / "bilder" / "neu" / "schön 1.png")
    listed = tmp_path / "LIST.TXT"
    listed.write_bytes(
        mark + 'bilder\\neu\\*.png\r\n"bilder\\neu\\schön 1.png"\r\n'.encode(encoding)
    )
    assert all_images([listed]) == [image]


@pytest.mark.skipif(os.sep != "/", reason="there it is a separator")
def test_a_backslash_may_be_part_of_a_name(tmp_path: Path, photo: Image.Image) -> None:
    (tmp_path / "a").mkdir()
    odd, _ = saved(photo, tmp_path / "a\\b.png"), saved(photo, tmp_path / "a" / "b.png")
    listed = tmp_path / "list.txt"
    listed.write_text("a\\b.png\n")
    assert all_images([listed]) == [odd]


def test_lists_in_other_encodings_are_named(tmp_path: Path, photo: Image.Image) -> None:
    image = saved(photo, tmp_path / "é.png")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{image}\n", encoding="latin-1")
    with pytest.raises(UserError, match=r"udce9.*line 1: .*not UTF-8: save the list in that encod"):
        find_images([listed])
    listed.write_text(f"{image}\n", encoding="utf-16-le")
    with pytest.raises(UserError, match=r"list\.txt is not UTF-8 text \(UTF-16\?\)"):
        find_images([listed])
