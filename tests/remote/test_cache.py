"""Reading shards over http through the cache, from a server that misbehaves."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest
from fault_server import FaultServer

from vocdist.errors import UserError
from vocdist.remote import cache as cache_module
from vocdist.remote import transfer
from vocdist.remote.cache import CachedFolder, CacheRule, RemoteFile
from vocdist.shards.format import load_manifest
from vocdist.shards.reader import ShardReader

SHARD = "train-000001.tar"


def samples_of(reader: ShardReader) -> list[tuple[bytes, str]]:
    return [(s.jpeg, s.annotations.key) for s in map(reader.read, range(len(reader)))]


def remote_file(shards: Path, name: str = SHARD) -> RemoteFile:
    split = load_manifest(shards).splits[name.partition("-")[0]]
    record = next(shard for shard in split.shards if shard.name == name)
    return RemoteFile(record.name, record.bytes, record.sha256)


def content(cached: CachedFolder, file: RemoteFile) -> bytes:
    with cached.opened(file) as descriptor:
        return os.pread(descriptor, file.size + 1, 0)


@pytest.fixture
def rule(tmp_path: Path) -> CacheRule:
    return CacheRule(tmp_path / "cache")


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(transfer, "RANGE_BYTES", 50_000)
    return 50_000


def test_remote_shards_read_as_local_ones(
    web: FaultServer, demo_shards: Path, rule: CacheRule, small_ranges: int
) -> None:
    for split in ("train", "val"):
        ours = ShardReader(web.url, split, cache=rule)
        local = ShardReader(demo_shards, split)
        assert ours.manifest_sha256 == local.manifest_sha256
        assert samples_of(ours) == samples_of(local)
        assert (ours.image_sizes == local.image_sizes).all()
        assert (ours.labels == local.labels).all()
    # A second reader needs the manifest alone.
    before = len(web.requests)
    again = ShardReader(web.url, "train", limit=13, cache=rule)
    assert len(samples_of(again)) == len(again.labels) == 13
    assert [name for _, name, _ in web.requests[before:]] == ["manifest.json"]


def test_only_the_shards_that_are_read_are_fetched(web: FaultServer, rule: CacheRule) -> None:
    reader = ShardReader(web.url, "train", cache=rule)
    assert not any(name.endswith(".tar") for _, name, _ in web.requests)
    reader.read(12)
    assert {n for _, n, _ in web.requests if n.endswith(".tar")} == {SHARD}


@pytest.mark.parametrize(
    "faults",
    [["503", "503"], ["drop"], ["slow", "*"], ["cut"], ["whole", "*"], ["429", "drop", "500"]],
)
def test_faults_that_pass_are_waited_out(
    web: FaultServer, demo_shards: Path, rule: CacheRule, small_ranges: int, faults: list[str]
) -> None:
    web.faults[SHARD] = faults
    cached = CachedFolder(web.url, "v", rule)
    assert content(cached, remote_file(demo_shards)) == (demo_shards / SHARD).read_bytes()


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["503", "*"], r"could not be reached for 1 s .*503.*VOCDIST_RETRY_SECONDS"),
        (["drop", "*"], r"could not be reached for 1 s"),
        (["cut", "*"], r"sent 22,880 of the bytes 100,000 to 150,000 .*upload it again"),
        (["404"], r"not there: check the URL"),
        (["403"], r"access is refused: check the credentials"),
    ],
)
def test_what_does_not_pass_is_one_clear_error(
    web: FaultServer,
    demo_shards: Path,
    rule: CacheRule,
    monkeypatch: pytest.MonkeyPatch,
    small_ranges: int,
    faults: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("VOCDIST_RETRY_SECONDS", "1")
    web.faults[SHARD] = faults
    cached = CachedFolder(web.url, "v", rule)
    with pytest.raises(UserError, match=message) as caught:
        content(cached, remote_file(demo_shards))
    assert str(caught.value).startswith(f"{web.url}/{SHARD}: ")
    assert not (cached.folder / SHARD).exists()
    if faults in (["404"], ["403"]):
        assert web.times(SHARD) == 1


def test_a_server_that_is_down_is_named(rule: CacheRule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCDIST_RETRY_SECONDS", "1")
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/x/manifest.json: could not be reach"):
        ShardReader("http://127.0.0.1:9/x", "train", cache=rule)


def test_the_counts_of_a_whole_split_cost_no_shard(web: FaultServer, rule: CacheRule) -> None:
    reader = ShardReader(web.url, "train", cache=rule)
    counts = reader.class_images
    assert not any(name.endswith(".tar") for _, name, _ in web.requests)
    assert (counts == reader.labels.sum(axis=0)).all()
    some = ShardReader(web.url, "train", limit=9, cache=rule)
    assert (some.class_images == reader.labels[:9].sum(axis=0)).all()


def test_no_manifest_says_how_to_make_shards(web: FaultServer) -> None:
    with pytest.raises(UserError, match="no shards here"):
        ShardReader(f"{web.url}/elsewhere", "train")


def test_a_download_goes_on_where_it_was_cut_off(
    web: FaultServer,
    demo_shards: Path,
    rule: CacheRule,
    small_ranges: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VOCDIST_RETRY_SECONDS", "0")
    web.faults[SHARD] = ["", "", "503"]
    cached, file = CachedFolder(web.url, "v", rule), remote_file(demo_shards)
    with pytest.raises(UserError, match="503"):
        content(cached, file)
    (part,) = cached.folder.glob(".*.part")
    assert part.stat().st_size == 2 * small_ranges
    before = len(web.requests)
    assert content(cached, file) == (demo_shards / SHARD).read_bytes()
    assert web.requests[before] == ("GET", SHARD, 2 * small_ranges)
    assert not list(cached.folder.glob(".*.part"))


def test_a_part_of_an_older_object_is_fetched_anew(
    web: FaultServer, demo_shards: Path, rule: CacheRule
) -> None:
    cached, file = CachedFolder(web.url, "v", rule), remote_file(demo_shards)
    (cached.folder / f".{SHARD}.{file.size}.part").write_bytes(b"x" * 1000)
    assert content(cached, file) == (demo_shards / SHARD).read_bytes()


def test_other_bytes_of_the_same_size_are_refused(
    demo_shards: Path, tmp_path: Path, rule: CacheRule
) -> None:
    copy = shutil.copytree(demo_shards, tmp_path / "copy")
    damaged = bytearray((copy / SHARD).read_bytes())
    damaged[5000] ^= 1
    (copy / SHARD).write_bytes(damaged)
    with FaultServer(copy) as server:
        cached = CachedFolder(server.url, "v", rule)
        with pytest.raises(UserError, match="not those that the manifest states"):
            content(cached, remote_file(demo_shards))
        assert {p.name for p in cached.folder.iterdir()} == {"about.json", ".in-use"}
        assert server.times(SHARD) == 2


def test_a_cut_copy_is_noticed_and_fetched_again(
    web: FaultServer, demo_shards: Path, rule: CacheRule
) -> None:
    reader = ShardReader(web.url, "train", cache=rule)
    expected = reader.read(12).jpeg
    (copy,) = rule.root.glob(f"shards/*/{SHARD}")
    os.truncate(copy, 20_000)
    assert reader.read(12).jpeg == expected
    assert copy.stat().st_size == remote_file(demo_shards).size
    assert web.times(SHARD) == 2


def test_other_shards_at_the_same_url_are_told_apart(
    demo_shards: Path, tmp_path: Path, rule: CacheRule
) -> None:
    copy = shutil.copytree(demo_shards, tmp_path / "copy")
    with FaultServer(copy) as server:
        ShardReader(server.url, "train", cache=rule).read(0)
        manifest = copy / "manifest.json"
        manifest.write_bytes(manifest.read_bytes() + b"\n")
        ShardReader(server.url, "train", cache=rule).read(0)
        assert server.times("train-000000.tar") == 2


def test_the_shard_used_longest_ago_goes_first(
    web: FaultServer, demo_shards: Path, tmp_path: Path
) -> None:
    files = [remote_file(demo_shards, f"train-00000{i}.tar") for i in range(3)]
    bound = sum(sorted(file.size for file in files)[1:])
    cached = CachedFolder(web.url, "v", CacheRule(tmp_path / "cache", bound))
    for number in (0, 1, 0, 2):
        content(cached, files[number])
        time.sleep(0.02)
        kept = sum(path.stat().st_size for path in cached.folder.glob("*.tar"))
        assert kept <= bound
    assert [web.times(file.name) for file in files] == [1, 1, 1]
    assert not (cached.folder / files[1].name).exists()
    assert (cached.folder / files[0].name).exists()
    content(cached, files[1])
    assert web.times(files[1].name) == 2


def test_a_shard_in_use_is_not_evicted(
    web: FaultServer, demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "ROOM_WAIT_S", 0.3)
    first, second = (remote_file(demo_shards, f"train-00000{i}.tar") for i in (0, 1))
    rule = CacheRule(tmp_path / "cache", max(first.size, second.size))
    cached = CachedFolder(web.url, "v", rule)
    with cached.opened(first):
        with pytest.raises(UserError, match=r"no room for train-000001.tar.*data.cache_bytes="):
            content(cached, second)
        assert (cached.folder / first.name).exists()
    content(cached, second)
    assert not (cached.folder / first.name).exists()


def test_a_shard_larger_than_the_cache_is_refused_at_once(
    web: FaultServer, demo_shards: Path, tmp_path: Path
) -> None:
    cached = CachedFolder(web.url, "v", CacheRule(tmp_path / "cache", 1000))
    began = time.monotonic()
    with pytest.raises(UserError, match="data.cache_bytes=1000"):
        content(cached, remote_file(demo_shards))
    assert time.monotonic() - began < 5
    assert web.times(SHARD) == 0


def test_an_unwritable_cache_is_a_clear_error(web: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache cannot be written.*data.cache_dir or VOCDIST_CACH"):
        ShardReader(web.url, "train", cache=CacheRule(tmp_path / "file"))


def test_hashes_are_those_of_the_files(demo_shards: Path) -> None:
    file = remote_file(demo_shards)
    assert hashlib.sha256((demo_shards / SHARD).read_bytes()).hexdigest() == file.sha256


@pytest.mark.parametrize("is_first", [True, False])
def test_a_readers_own_error_keeps_its_name(
    web: FaultServer, demo_shards: Path, rule: CacheRule, is_first: bool
) -> None:
    cached = CachedFolder(web.url, "v", rule)
    file = remote_file(demo_shards)
    if not is_first:
        content(cached, file)
    with (
        pytest.raises(FileNotFoundError, match="nowhere"),
        cached.opened(file),
    ):
        (rule.root / "nowhere").read_bytes()
