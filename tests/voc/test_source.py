import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vocdist.errors import UserError
from vocdist.voc import source
from vocdist.voc.source import resolve_source

SLUG = "gopalbhattrai/pascal-voc-2012-dataset"
NESTING = "VOC2012_train_val/VOC2012_train_val"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty kagglehub cache, on a machine whose every connection is refused."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed_port = free.getsockname()[1]
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    for name in ("no_proxy", "NO_PROXY", "KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_API_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "cache"


def add_version(cache: Path, make_root, version: int, *, complete: bool = True) -> Path:
    """Lay out a version as kagglehub leaves it on disk."""
    folder = cache / "datasets" / SLUG
    make_root(folder / "versions" / str(version) / "VOC2012_test/VOC2012_test")
    root = make_root(folder / "versions" / str(version) / NESTING)
    if complete:
        (folder / f"{version}.complete").touch()
    return root


def test_a_folder_is_searched_and_home_is_expanded(tmp_path, monkeypatch, make_root):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = make_root(tmp_path / "VOCdevkit/VOC2007")
    assert resolve_source(str(tmp_path)) == resolve_source("~/VOCdevkit") == root


def test_a_folder_does_not_load_kagglehub(tmp_path, make_root):
    make_root(tmp_path / "VOC2012")
    code = (
        "import sys; from vocdist.voc.source import resolve_source; "
        f"resolve_source({str(tmp_path)!r}); assert 'kagglehub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    "handle", ["voc2012", "a/b/c", "a/b/versions/x", "a/b/versions/0", "../b", ""]
)
def test_a_handle_that_is_none_is_refused_by_its_form(handle):
    with pytest.raises(UserError, match="write kaggle:owner/name"):
        resolve_source(f"kaggle:{handle}")


def test_the_cache_serves_its_newest_complete_version_without_a_network(cache, make_root):
    older = add_version(cache, make_root, 9)
    newest = add_version(cache, make_root, 10)
    add_version(cache, make_root, 11, complete=False)  # a download that was cut off
    (cache / "datasets" / SLUG / "12.complete").touch()  # its folder was deleted by hand
    assert resolve_source(f"kaggle:{SLUG}") == newest
    assert resolve_source(f"kaggle:{SLUG}/versions/9") == older


@pytest.mark.parametrize("handle", [SLUG, f"{SLUG}/versions/3"])
def test_neither_cache_nor_network_is_one_error_with_the_way_out(cache, make_root, handle):
    add_version(cache, make_root, 3, complete=False)
    with pytest.raises(UserError) as caught:
        resolve_source(f"kaggle:{handle}")
    message = str(caught.value)
    assert "source=/path/to/VOC2012" in message
    assert "no connection to Kaggle" in message
    assert str(cache) in message
    assert "\n" not in message


def test_a_network_that_swallows_packets_does_not_hang(cache, monkeypatch):
    monkeypatch.setattr(source, "REACH_TIMEOUT_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(UserError, match="no connection to Kaggle"):
            resolve_source(f"kaggle:{SLUG}")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "address",
    [
        f"https://www.kaggle.com/datasets/{SLUG}",
        f"http://kaggle.com/datasets/{SLUG}/",
        f"www.kaggle.com/datasets/{SLUG}/data",
        f"https://www.kaggle.com/datasets/{SLUG}/versions/9?select=VOC2012_test",
        f"https://www.kaggle.com/datasets/{SLUG}?select=VOC2012_test#more",
    ],
)
def test_the_address_of_a_kaggle_page_is_taken_for_its_name(cache, make_root, address):
    older, newest = (add_version(cache, make_root, version) for version in (9, 10))
    assert resolve_source(address) == (older if "versions" in address else newest)


def test_a_handle_without_its_prefix_is_asked_for(tmp_path, monkeypatch, make_root):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"did you mean source=kaggle:{SLUG}"):
        resolve_source(SLUG)
    # A folder of that name is a folder.
    assert resolve_source(str(make_root(tmp_path / SLUG)))


@pytest.mark.parametrize(
    "address",
    [
        "https://universe.roboflow.com/someone/helmets/dataset/2",
        "https://huggingface.co/datasets/someone/helmets",
        "github.com/someone/helmets",
        "https://www.kaggle.com/code/someone/notebook",
        "https://example.org/VOCtrainval.tar",
        "https://example.org/helmets.zip?download=1",
        "s3://bucket/helmets.tar.gz",
    ],
)
def test_pages_and_archives_are_answered_without_a_request(address):
    with pytest.raises(UserError, match="unpack it and pass the folder"):
        resolve_source(address)


@contextmanager
def kaggle_on_loopback(archive: bytes | None) -> Iterator[int]:
    """Speak the two calls that kagglehub makes for a data set; without an archive, say 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body, kind = b"{}", "application/json"
            if archive and self.path.endswith("/GetDataset"):
                body = json.dumps({"currentVersionNumber": 3}).encode()
            elif archive:
                body, kind = archive, "application/zip"
            self.send_response(200 if archive else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def resolve_in_new_process(port: int) -> subprocess.CompletedProcess[str]:
    """A fresh process, as kagglehub takes hold of stdout once, when it is imported."""
    # LOCALHOST makes kagglehub talk to http://localhost; the proxy setting adds our port.
    env = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": f"http://127.0.0.1:{port}"}
    code = f"from vocdist.voc.source import resolve_source; print(resolve_source('kaggle:{SLUG}'))"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **env},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


def test_a_download_lands_in_the_cache_and_leaves_stdout_alone(cache, tmp_path, make_root):
    root = make_root(tmp_path / "tree" / NESTING)
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for path in root.rglob("*.*"):
            archive.write(path, path.relative_to(tmp_path / "tree"))
    with kaggle_on_loopback(memory.getvalue()) as port:
        done = resolve_in_new_process(port)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{cache / 'datasets' / SLUG / 'versions/3' / NESTING}\n"
    # And from now on without a network, in this process.
    assert resolve_source(f"kaggle:{SLUG}") == Path(done.stdout.strip())


def test_a_data_set_that_kaggle_does_not_have_says_so(cache):
    with kaggle_on_loopback(None) as port:
        done = resolve_in_new_process(port)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vocdist.errors.UserError: kaggle:")
    assert "404" in last and "source=/path/to/VOC2012" in last
