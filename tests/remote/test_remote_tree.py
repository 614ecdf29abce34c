"""A VOC tree behind http and S3."""

import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from fault_server import FaultServer

from vocdist.errors import UserError
from vocdist.remote.cache import clear_cache
from vocdist.voc import source
from vocdist.voc.source import copy_voc_tree, resolve_source


@pytest.fixture
def tree(demo_root: Path, tmp_path: Path) -> Path:
    """A VOC root two levels down, with a name to be quoted, and things that no conversion reads."""
    root = tmp_path / "site" / "devkit" / "VOC2012"
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
        for path in sorted((demo_root / name).iterdir())[:6]:
            shutil.copy(path, root / name)
    for name, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        first = sorted((root / name).iterdir())[0]
        first.rename(first.with_name(f"with blank é{suffix}"))
    (root / "SegmentationClass").mkdir()
    (root / "SegmentationClass" / "big.png").write_bytes(b"x")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("demo_000001\n")
    (root / "ImageSets" / "Main" / "Valid.txt").write_text("demo_000002\n")
    (root / "ImageSets" / "Main" / "aeroplane_train.txt").write_text("demo_000001 1\n")
    return root


def read_files(root: Path) -> dict[str, bytes]:
    """Those that a conversion reads."""
    unread = ("big.png", "aeroplane_train.txt")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in unread
    }


def test_a_tree_behind_http_is_copied_once(tree: Path, tmp_path: Path) -> None:
    with FaultServer(tree.parents[1]) as server:
        server.faults["demo_000002.xml"] = ["503", "drop"]
        root = resolve_source(f"{server.url}/devkit", tmp_path / "cache")
        assert root.name == "VOC2012"
        assert read_files(root) == read_files(tree)
        assert not list(root.rglob("big.png"))
        before = len(server.requests)
        assert resolve_source(f"{server.url}/devkit/", tmp_path / "cache") == root
        assert not [n for _, n, _ in server.requests[before:] if n.endswith((".xml", ".jpg"))]


def test_a_tree_in_s3_is_kept_up_to_date(tree: Path, tmp_path: Path, bucket: str) -> None:
    s3 = boto3.resource("s3").Bucket(bucket.removeprefix("s3://"))
    for path in tree.rglob("*"):
        if path.is_file():
            s3.put_object(Key=f"v/{path.relative_to(tree).as_posix()}", Body=path.read_bytes())
    copy = copy_voc_tree(f"{bucket}/v", tmp_path / "cache")
    assert read_files(copy) == read_files(tree)
    xml = tree / "Annotations" / "demo_000003.xml"
    changed = xml.read_bytes().replace(b"<object>", b"<object >")
    s3.put_object(Key="v/Annotations/demo_000003.xml", Body=changed)
    s3.delete_objects(Delete={"Objects": [{"Key": "v/JPEGImages/demo_000004.jpg"}]})
    expected = read_files(tree) | {"Annotations/demo_000003.xml": changed}
    del expected["JPEGImages/demo_000004.jpg"]
    assert read_files(copy_voc_tree(f"{bucket}/v", tmp_path / "cache")) == expected


def test_names_that_lead_out_of_the_copy_are_not_followed(tmp_path: Path, bucket: str) -> None:
    s3 = boto3.resource("s3").Bucket(bucket.removeprefix("s3://"))
    s3.put_object(Key="v/Annotations/a.xml", Body=b"x")
    s3.put_object(Key="v/../../Annotations/evil.xml", Body=b"x")
    copy = copy_voc_tree(f"{bucket}/v", tmp_path / "cache")
    assert [path.name for path in tmp_path.rglob("*.xml")] == ["a.xml"]
    assert (copy / "Annotations" / "a.xml").is_file()


def test_a_listing_of_absolute_names_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listing:
        def invalidate_cache(self) -> None: ...

        def find(self, path: str, detail: bool) -> dict[str, dict[str, object]]:
            names = ("%2Ftmp/Annotations/evil.xml", "Annotations/a.xml")
            return {f"{path}/{name}": {"size": 1} for name in names}

    monkeypatch.setattr(source, "open_filesystem", lambda url: (Listing(), url))
    assert list(source._wanted("http://site/v")) == ["Annotations/a.xml"]


def test_a_place_without_a_tree_is_named(web: FaultServer, tmp_path: Path) -> None:
    for url in (web.url, f"{web.url}/nothing"):
        with pytest.raises(UserError, match=f"{url}: no VOC data set is listed there"):
            resolve_source(url, tmp_path / "cache")


READS = """
import sys, time
from pathlib import Path
from vocdist.voc.source import copy_voc_tree
print(copy_voc_tree(sys.argv[1], Path(sys.argv[2])), flush=True)
time.sleep(600)
"""


def test_clearing_spares_a_copy_that_a_conversion_reads(tree: Path, tmp_path: Path) -> None:
    with FaultServer(tree.parents[1]) as server:
        words = [f"{server.url}/devkit", str(tmp_path / "cache")]
        reader = subprocess.Popen(
            [sys.executable, "-c", READS, *words], stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout
        copy = Path(reader.stdout.readline().strip())
        try:
            assert clear_cache(tmp_path / "cache") == (0, [copy.parent])
            assert list(copy.rglob("*.xml"))
        finally:
            reader.kill()
            reader.communicate()
    assert clear_cache(tmp_path / "cache")[1] == []
    assert not copy.exists()


def test_two_conversions_that_start_at_once_share_a_copy(tree: Path, tmp_path: Path) -> None:
    with FaultServer(tree.parents[1]) as server:
        words = [f"{server.url}/devkit", str(tmp_path / "cache")]
        readers = [
            subprocess.Popen([sys.executable, "-c", READS, *words], stdout=subprocess.PIPE)
            for _ in range(2)
        ]
        try:
            copies = {reader.stdout.readline() for reader in readers if reader.stdout}
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
        assert len(copies) == 1
        fetched = [name for _, name, _ in server.requests if name.endswith(".xml")]
        assert len(fetched) == len(set(fetched)) == 6
    assert not list((tmp_path / "cache").rglob("*.tmp"))
