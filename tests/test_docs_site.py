"""The site of the documentation: built strictly, complete, and read without a network."""

import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page
from doc_commands import REPO

from vocdist.config import ClassifierConfig, RpnConfig, ShardsConfig
from vocdist.config.help import settings_of


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


def test_no_page_lacks_what_it_takes_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "<!-- build:" not in page.read_text(encoding="utf-8"), page


def test_measured_tables_are_those_of_the_notes(site: Path) -> None:
    shown = read(site / "notebook.html").text
    page = (REPO / "docs/notebook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^<!-- build: section (\S+) (.+) -->$", page, re.MULTILINE)
    assert len(sections) >= 3
    for source, heading in sections:
        note = (REPO / source).read_text(encoding="utf-8")
        table = note.partition(f"# {heading}\n")[2].partition("|---")[2].partition("\n\n")[0]
        cells = [cell.strip("* ") for row in table.splitlines()[1:] for cell in row.split("|")]
        assert len(cells) > 10 and not [cell for cell in cells if cell not in shown], source


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
