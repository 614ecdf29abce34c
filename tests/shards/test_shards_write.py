import io
import json
import tarfile

import pytest
from webdataset import TarWriter

from vocdist.errors import UserError
from vocdist.shards.format import index_bytes, read_index, scan_tar
from vocdist.shards.write import member_header, padding, tar_end


def samples_of_tar(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.parametrize("sizes", [(), (0,), (1, 511, 512, 513), (10_240 - 2_560,), (90_000, 7)])
def test_the_bytes_are_those_of_webdatasets_writer(sizes):
    contents = {f"key{i}": bytes([i % 251]) * size for i, size in enumerate(sizes)}
    theirs = io.BytesIO()
    with TarWriter(theirs, mtime=0, encoder=False) as writer:
        for key, content in contents.items():
            writer.write({"__key__": key, "jpg": content, "json": b"{}"})
    ours = b""
    for key, content in contents.items():
        for extension, data in (("jpg", content), ("json", b"{}")):
            ours += member_header(f"{key}.{extension}", len(data)) + data + padding(len(data))
    assert ours + tar_end(len(ours)) == theirs.getvalue()


def test_images_pass_through_untouched_and_records_are_the_xmls(small_root, small_shards):
    seen = {}
    for shard in sorted(small_shards.glob("*.tar")):
        members = samples_of_tar(shard)
        assert [name.rpartition(".")[2] for name in members] == ["jpg", "json"] * (
            len(members) // 2
        )
        seen |= members
    images = {path.name: path.read_bytes() for path in (small_root / "JPEGImages").iterdir()}
    assert {name: data for name, data in seen.items() if name.endswith("jpg")} == images
    record = json.loads(seen["2007_000000.json"])
    assert list(record) == [
        "key", "filename", "width", "height", "boxes", "names", "difficult", "truncated",
    ]  # fmt: skip
    assert (record["key"], record["filename"]) == ("2007_000000", "2007_000000.jpg")
    assert (record["width"], record["height"]) == (64, 48)
    assert len(record["boxes"]) == len(record["names"]) == len(record["difficult"])


def test_the_same_bytes_for_any_number_of_workers_and_at_any_time(
    small_root, small_shards, make, tmp_path, hashes
):
    make(small_root, tmp_path / "two", workers=2)
    make(small_root, tmp_path / "three", workers=3)
    assert hashes(tmp_path / "two") == hashes(tmp_path / "three") == hashes(small_shards)


def test_nothing_but_the_data_set_is_left_in_the_folder(small_shards):
    shards = [f"train-{i:06d}" for i in range(4)] + ["val-000000"]
    expected = {f"{name}.{kind}" for name in shards for kind in ("tar", "idx")}
    expected |= {"manifest.json", "rejected.jsonl", "_info.json"}
    assert {path.name for path in small_shards.iterdir()} == expected


def test_the_index_is_dalis_form_and_points_at_the_members(small_shards):
    for shard in small_shards.glob("*.tar"):
        text = shard.with_suffix(".idx").read_text()
        header, *lines = text.splitlines()
        assert header == f"v1.2 {len(lines)}"
        members = samples_of_tar(shard)
        content = shard.read_bytes()
        for line in lines:
            # As DALI reads it: blank-separated groups of extension, offset, size, name.
            words = line.split(" ")
            assert [words[0], words[4]] == ["jpg", "json"]
            for _, offset, size, name in (words[:4], words[4:]):
                start = int(offset)
                assert content[start : start + int(size)] == members[name]
                assert start % 512 == 0
        entries = read_index(shard.with_suffix(".idx"))
        assert entries == scan_tar(shard)
        assert index_bytes(entries).decode() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1.1 0\n",
        "v1.2 2\njpg 512 1 a.jpg json 1536 2 a.json\n",
        "v1.2 1\njpg 512 1 a.jpg\n",
        "v1.2 1\njpg x 1 a.jpg json 1536 2 a.json\n",
        "v1.2 1\npng 512 1 a.png json 1536 2 a.json\n",
    ],
)
def test_an_index_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "train-000000.idx"
    path.write_text(text)
    with pytest.raises(UserError, match="no usable index"):
        read_index(path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.jpg", "b.json"], "not one sample's"),
        (["a.png", "a.json"], "not one sample's"),
        (["a.jpg"], "no partner"),
    ],
)
def test_a_tar_of_another_form_is_refused(tmp_path, names, words):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match=words):
        scan_tar(path)
