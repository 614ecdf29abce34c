import gc
import os
import time
from pathlib import Path

import pytest
from fault_server import FaultServer

from vocdist.config import ClassifierConfig, ShardsConfig
from vocdist.config.file import load_config, save_config
from vocdist.errors import UserError
from vocdist.remote import location as filesystem
from vocdist.remote.location import (
    SILENCE_S,
    check_writable,
    join,
    last_part,
    open_filesystem,
    parse_location,
)
from vocdist.remote.transfer import read_whole


@pytest.mark.parametrize("text", ["shards/voc", "/abs", "C:/x", "a:b", "kaggle:owner/name"])
def test_what_is_no_url_is_a_path(text: str) -> None:
    assert parse_location(text) == Path(text)


def test_a_url_stays_a_url_without_its_last_slash() -> None:
    assert parse_location("s3://bucket/voc/") == "s3://bucket/voc"
    assert join("s3://bucket/voc", "a.tar") == "s3://bucket/voc/a.tar"
    assert (last_part("s3://bucket/voc"), last_part(Path("shards/x"))) == ("voc", "x")


@pytest.mark.parametrize(
    "text",
    [
        "pipe:cat /etc/passwd",
        "pipe://cat",
        "file:///etc",
        "ftp://host/x",
        "simplecache::s3://bucket/x",
        "https://host/x::s3://bucket",
        "https://host/x?key=1",
        "https://host/x#y",
        "https://user:secret@host/x",
    ],
)
def test_other_schemes_chains_queries_and_passwords_are_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_location(text)
    assert "secret" not in str(caught.value)


def test_http_is_not_written_to() -> None:
    check_writable("s3://bucket/x")
    with pytest.raises(UserError, match="http can only be read"):
        check_writable("https://host/x")


def test_a_missing_driver_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gcsfs: pip install 'vocdist\[gs\]'"):
        open_filesystem("gs://bucket/x")


def test_configs_take_urls_and_survive_a_round_trip(tmp_path: Path) -> None:
    values = ["data.shards=s3://bucket/voc/", "data.cache_bytes=20GB", "data.cache_dir=/x"]
    config = load_config(ClassifierConfig, None, values)
    assert (config.data.shards, config.data.cache_bytes) == ("s3://bucket/voc", 20 * 10**9)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(ClassifierConfig, tmp_path / "config.yaml") == config
    shards = load_config(ShardsConfig, None, ["source=http://h/voc", "output=s3://b/o"])
    assert (shards.source, shards.output) == ("http://h/voc", "s3://b/o")
    with pytest.raises(UserError, match="use one of s3, gs"):
        load_config(ClassifierConfig, None, ["data.shards=ftp://bucket/voc"])


def test_a_forked_child_leaves_its_parents_connections_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"content")
    with FaultServer(tmp_path) as server:
        url = f"{server.url}/a.tar"
        assert read_whole(url) == b"content"
        child = os.fork()
        if not child:
            # fsspec drops what it inherited, and makes its own.
            code = int(read_whole(url) != b"content")
            gc.collect()
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        begun = time.monotonic()
        assert read_whole(url) == b"content"
        # The connection that was cut off would be given up after so many seconds of silence.
        assert time.monotonic() - begun < SILENCE_S / 2
