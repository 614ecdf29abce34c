"""Several processes on one cache, and processes that are killed."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_server import FaultServer

from vocdist.files.lock import locked
from vocdist.remote.cache import CachedFolder, CacheRule, RemoteFile
from vocdist.shards.format import load_manifest
from vocdist.shards.reader import ShardReader

READ = [sys.executable, str(Path(__file__).parent / "read_shards.py")]


def start(*arguments: object) -> subprocess.Popen[str]:
    words = [*READ, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip()


@pytest.fixture(scope="module")
def expected(demo_shards: Path) -> str:
    reader = ShardReader(demo_shards, "train")
    return hashlib.sha256(b"".join(reader.read(i).jpeg for i in range(len(reader)))).hexdigest()


def test_processes_that_share_a_cache_download_each_byte_once(
    demo_shards: Path, tmp_path: Path, expected: str
) -> None:
    with FaultServer(demo_shards) as server:
        server.faults["*"] = ["slow", "*"]  # so that they meet
        processes = [start(server.url, "train", tmp_path / "cache") for _ in range(3)]
        assert [finish(process) for process in processes] == [expected] * 3
        asked = [(name, first) for _, name, first in server.requests if name.endswith(".tar")]
    assert len(asked) == len(set(asked)) > 30


def test_killed_in_mid_download_the_next_process_goes_on(
    demo_shards: Path, tmp_path: Path, expected: str
) -> None:
    with FaultServer(demo_shards) as server:
        server.faults["*"] = ["slow", "*"]
        first = start(server.url, "train", tmp_path / "cache")
        deadline = time.monotonic() + 60
        while server.times("train-000001.tar") < 5:
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        names = {path.name for path in (tmp_path / "cache").glob("shards/*/*.tar")}
        assert names == {"train-000000.tar"}, "only what is whole has its name"
        before = len(server.requests)
        assert finish(start(server.url, "train", tmp_path / "cache")) == expected
        asked = [(name, begin) for _, name, begin in server.requests[before:]]
    assert "train-000000.tar" not in {name for name, _ in asked}
    assert min(begin for name, begin in asked if name == "train-000001.tar") >= 4 * 20_000


def test_a_killed_reader_does_not_hold_its_shard(demo_shards: Path, tmp_path: Path) -> None:
    shards = load_manifest(demo_shards).splits["train"].shards
    bound = max(shard.bytes for shard in shards)
    code = (
        "import sys, time; from pathlib import Path;"
        "from vocdist.remote.cache import *;"
        "url, cache, name, size, sha = sys.argv[1:];"
        "folder = CachedFolder(url, 'v', CacheRule(Path(cache)));"
        "held = folder.opened(RemoteFile(name, int(size), sha)); held.__enter__();"
        "print('held', flush=True); time.sleep(100)"
    )
    with FaultServer(demo_shards) as server:
        first = shards[0]
        words = [server.url, tmp_path / "cache", first.name, first.bytes, first.sha256]
        holder = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout and holder.stdout.readline() == "held\n"
        cached = CachedFolder(server.url, "v", CacheRule(tmp_path / "cache", bound))
        other = RemoteFile(shards[1].name, shards[1].bytes, shards[1].sha256)
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        with cached.opened(other):
            assert {p.name for p in cached.folder.glob("*.tar")} == {other.name}


def test_a_child_that_is_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "file"
    awake, tell = os.pipe()
    with locked(path, create=True) as held:
        assert held is not None
        child = os.fork()
        if not child:
            os.write(tell, b"x")
            time.sleep(600)
            os._exit(0)
    try:
        assert os.read(awake, 1) == b"x"
        with locked(path, wait=False) as again:
            assert again is not None, "the child holds it"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(awake)
        os.close(tell)


@pytest.mark.slow
def test_processes_share_a_cache_that_holds_one_shard(
    demo_shards: Path, tmp_path: Path, expected: str
) -> None:
    bound = max(shard.bytes for shard in load_manifest(demo_shards).splits["train"].shards)
    with FaultServer(demo_shards) as server:
        processes = [start(server.url, "train", tmp_path / "cache", bound) for _ in range(2)]
        assert [finish(process) for process in processes] == [expected] * 2
    kept = sum(p.stat().st_size for p in (tmp_path / "cache").glob("shards/*/*.tar"))
    assert kept <= bound
