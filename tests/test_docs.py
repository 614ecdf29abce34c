"""The documentation: its site builds, its commands and messages are those of the code."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import boto3
import pytest
from chromium import CHROMIUM, Page
from doc_commands import PAGES, REPO, blocks, check, commands, inline_commands
from docs_world import build_world, run
from moto.server import ThreadedMotoServer

from vocdist.config import ClassifierConfig, RpnConfig, ShardsConfig
from vocdist.config_help import settings_of
from vocdist.errors import UserError

RUNNABLE = [
    page
    for page in PAGES
    if any(b.language in ("bash", "python") and not b.not_run for b in blocks(page))
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=REPO,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


class Fetched(HTMLParser):
    """What a page makes the browser fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.urls.append(values.get("src") or "")
        elif tag == "link":
            self.urls.append(values.get("href") or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> Fetched:
    fetched = Fetched()
    fetched.feed(page.read_text(encoding="utf-8"))
    return fetched


def test_pages_fetch_nothing_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 15
    for page in pages:
        assert not [url for url in read(page).urls if "//" in url], page


def test_every_page_says_all_that_it_takes_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "<!-- build:" not in page.read_text(encoding="utf-8"), page
    notebook = read(site / "notebook.html").text
    for source, heading in (
        ("benchmarks/classifier.md", "macro-F1 at 0.5"),
        ("README.md", "RPN, recall@0.5 of 200 proposals"),
    ):
        row = re.search(rf"^\| {re.escape(heading)} \|(.+)\|$", (REPO / source).read_text(), re.M)
        assert row, f"{source} has no row '{heading}'"
        assert all(cell.strip() in notebook for cell in row[1].split("|"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_browser_reads_the_site_from_the_disk(site: Path, tmp_path: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    with Page(tmp_path) as browser:
        for page in pages:
            for width, dark in ((1280, False), (390, True)):
                browser.open(page, width=width, dark=dark)
                assert browser.evaluate("document.documentElement.scrollWidth") == width, page
                scheme = browser.evaluate("document.body.dataset.mdColorScheme")
                assert scheme == ("slate" if dark else "default")
        browser.call("Emulation.setFocusEmulationEnabled", enabled=True)
        browser.open(site / "index.html", width=1280, dark=False)
        browser.evaluate("document.querySelector('[data-md-component=search-query]').focus()")
        browser.call("Input.insertText", text="decoded_cache")
        found, deadline = "", time.monotonic() + 60
        while "matching documents" not in found or "No " in found:
            assert time.monotonic() < deadline, found
            # What the search listens to.
            for kind in ("keyDown", "keyUp"):
                browser.call("Input.dispatchKeyEvent", type=kind, key="End")
            time.sleep(0.1)
            found = browser.evaluate("document.querySelector('.md-search-result').innerText")
        assert "Settings" in found
        assert not browser.complaints
        assert not [url for url in browser.requests if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("kind", [ClassifierConfig, RpnConfig, ShardsConfig])
def test_every_setting_is_in_the_reference(site: Path, kind: type) -> None:
    text = read(site / "settings.html").text
    for item in settings_of(kind):
        assert item.value is None or f"{item.key}=" in text
        assert item.meaning.partition("`")[0] in text


@pytest.mark.parametrize("page", PAGES)
def test_commands_could_be_right(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    for block in blocks(page):
        if block.language == "bash":
            for words in commands(block.text):
                check(words)
        elif block.language == "python":
            compile(block.text, page, "exec")
        else:
            # A command without its language would be neither checked nor run.
            assert not re.match(r"(python|accelerate|make|pip|torchrun|sbatch) ", block.text), block
    for command in inline_commands(page):
        for words in commands(command):
            check(words)


@pytest.mark.parametrize(
    "command",
    [
        "python scripts/nothing.py",
        "python scripts/train_rpn.py train.epoch=3",
        "python scripts/train_rpn.py configs/none.yaml",
        "accelerate launch --config_file configs/accelerate/none.yaml scripts/train_rpn.py",
        "accelerate launch scripts/train_rpn.py --dry",
        "python scripts/evaluate.py runs/rpn matching.max=3",
        "python scripts/report.py runs/a --out b.html",
        "make tests",
        "pip install 'vocdist[s4]'",
        "rm -r runs",
    ],
)
def test_a_wrong_command_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    with pytest.raises((AssertionError, UserError, OSError)):
        for words in commands(command):
            check(words)


def test_messages_are_the_code_s() -> None:
    quoted = [
        line
        for block in blocks("docs/errors.md")
        if block.language == "text"
        for line in block.text.splitlines()
    ]
    assert len(quoted) > 30
    gone = [line for line in quoted if not any(_says(text, line) for text in _texts_of_the_code())]
    assert not gone


def test_reasons_are_the_code_s() -> None:
    page = (REPO / "docs/own-data.md").read_text(encoding="utf-8")
    rows = page.partition("| reason |")[2].partition("\n\n")[0].splitlines()[2:]
    reasons = {slug for row in rows for slug in re.findall("`(.+?)`", row.split("|")[1])}
    assert len(reasons) > 20
    assert reasons <= _texts_of_the_code()


def test_what_is_not_run_names_tests_and_pages_that_are_there() -> None:
    reasons = [block.not_run for page in PAGES for block in blocks(page) if block.not_run]
    named = [path for reason in reasons for path in re.findall(r"(?:tests|docs)/\S+\w", reason)]
    assert named and not [path for path in named if not (REPO / path).is_file()]


@cache
def _texts_of_the_code() -> frozenset[str]:
    """All strings of the code, with `…` for what is put into them."""
    return frozenset(_texts())


def _texts() -> Iterator[str]:
    for path in (*REPO.glob("vocdist/**/*.py"), *REPO.glob("scripts/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _says(text: str, message: str) -> bool:
    """Whether the pieces of a message stand in a text, one after the other."""
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
    return re.search(".*".join(pieces), text, re.DOTALL) is not None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "vocdist"
    root.mkdir()
    build_world(root)
    return root


@pytest.fixture(scope="module")
def bucket() -> Iterator[Mapping[str, str]]:
    """A real S3 server on this machine with the bucket `bucket`, as variables of the shell."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
    yield variables
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE)
def test_commands_run(page: str, world: Path, bucket: Mapping[str, str], tmp_path: Path) -> None:
    root = tmp_path / "vocdist"
    shutil.copytree(world, root, symlinks=True)
    for block in blocks(page):
        if block.not_run or block.language not in ("bash", "python"):
            continue
        text = block.text
        if block.language == "python":
            (root / "example.py").write_text(text, encoding="utf-8")
            text = "python example.py"
        run(root, text, bucket)
