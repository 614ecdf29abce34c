"""`scripts/cache.py` and what is behind it."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fault_server import FaultServer

from vocdist.data.dataset import decode_image
from vocdist.errors import UserError
from vocdist.remote.cache import CacheRule, clear_cache, list_cache
from vocdist.shards.reader import ShardReader
from vocdist.shards.verify import drop_damaged
from vocdist.shards.writer_lock import locked_for_writing

REPO = Path(__file__).parents[2]


@pytest.fixture
def filled(web: FaultServer, tmp_path: Path) -> Path:
    root = tmp_path / "cache"
    reader = ShardReader(web.url, "train", cache=CacheRule(root))
    for index in (0, 12, 24):
        reader.read(index)
    return root


def command(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/cache.py", *words, "--dir", str(root)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_shows_checks_and_clears(filled: Path, web: FaultServer) -> None:
    shown = command(filled)
    assert shown.returncode == 0, shown.stderr
    assert "shards" in shown.stdout and "127.0.0.1" in shown.stdout
    (entry,) = list_cache(filled)
    assert f"{entry.size / 1e6:.1f} MB" in shown.stdout
    checked = command(filled, "verify")
    assert (checked.returncode, "3 shards, 0 damaged" in checked.stdout) == (0, True)
    cleared = command(filled, "clear")
    assert cleared.returncode == 0, cleared.stderr
    assert list(list_cache(filled)) == []


def test_an_unknown_word_is_answered() -> None:
    done = command(Path("x"), "purge")
    assert done.returncode == 2
    assert "cache.py knows verify, clear" in done.stderr


def test_a_damaged_copy_is_found_and_fetched_again(filled: Path, web: FaultServer) -> None:
    (copy,) = filled.glob("shards/*/train-000001.tar")
    good = copy.read_bytes()
    copy.write_bytes(good[:9000] + b"x" + good[9001:])
    assert [path.name for path, right in drop_damaged(filled) if not right] == [copy.name]
    assert not copy.exists()
    ShardReader(web.url, "train", cache=CacheRule(filled)).read(12)
    assert copy.read_bytes() == good
    for part, word in ((b'{"key"', "no record"), (b"\xff\xd8\xff", "not a readable JPEG")):
        copy.write_bytes(good.replace(part, b"x" * len(part), 1))
        reader = ShardReader(web.url, "train", cache=CacheRule(filled))
        with pytest.raises(
            UserError, match=f"{word}.*: drop the damaged copy with .*cache.py verify"
        ):
            decode_image(reader.read(12).jpeg, "a", reader.remedy)


def test_clearing_spares_what_a_reader_may_come_back_to(filled: Path, web: FaultServer) -> None:
    reader = ShardReader(web.url, "train", cache=CacheRule(filled))
    sent = pickle.loads(pickle.dumps(reader))
    (folder,) = (filled / "shards").iterdir()
    for _ in range(2):
        assert clear_cache(filled) == (0, [folder])
        # One shard is here, another was evicted and has to be fetched again.
        (folder / "train-000002.tar").unlink(missing_ok=True)
        assert reader.read(0).jpeg and reader.read(24).jpeg
        del reader
        reader = sent
    del reader, sent
    assert clear_cache(filled)[1] == [] and not folder.exists()


def test_clearing_spares_what_is_in_use_and_other_urls(filled: Path, web: FaultServer) -> None:
    assert clear_cache(filled, "http://elsewhere/x") == (0, [])
    staging = filled / "staging" / "x"
    staging.mkdir(parents=True)
    (staging / "about.json").write_text('{"url": "s3://b/x", "version": ""}')
    with locked_for_writing(staging):
        removed, kept = clear_cache(filled)
        assert kept == [staging]
        assert removed > 0
    clear_cache(filled)
    assert list(list_cache(filled)) == []
