import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import CHROMIUM, Page
from made_runs import classifier_predictions, made_run, rpn_predictions

from vocdist.report.comparison import comparison_page
from vocdist.report.page import run_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install chromium")

# Names as long as people's own are.
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
LONG = [f"a class with a rather long name {i}" for i in range(12)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def pages() -> dict[str, str]:
    return {
        "classifier": run_page(made_run(classifier_predictions())),
        "long_names": run_page(made_run(classifier_predictions(LONG), name="long_" * 30)),
        "rpn": run_page(made_run(rpn_predictions())),
        "begun": run_page(made_run(None, finished=False)),
        "comparison": comparison_page(
            [made_run(classifier_predictions(seed=i), name=f"run_{i}" * 5) for i in range(6)]
        ),
    }


@pytest.mark.parametrize("name", pages())
def test_it_opens_without_a_request_or_a_complaint_and_fits(
    name: str, browser: Page, tmp_path: Path
) -> None:
    file = tmp_path / f"{name}.html"
    file.write_text(pages()[name], encoding="utf-8")
    for width in (1280, 390):
        for dark in (False, True):
            browser.requests.clear()
            browser.open(file, width=width, dark=dark)
            others = [url for url in browser.requests if not url.startswith("data:")]
            assert others == [file.resolve().as_uri()]
            assert browser.complaints == []
            # Nothing sticks out: what is wider scrolls in a place of its own.
            assert browser.evaluate("document.documentElement.scrollWidth") == width
            assert browser.evaluate("document.documentElement.scrollHeight") > 300
            (background,) = re.findall(r"rgb\((\d+)", browser.evaluate(BACKGROUND))
            assert int(background) < 40 if dark else int(background) > 230
    blank = "[...document.images].filter(i => !i.naturalWidth).length"
    assert browser.evaluate(blank) == 0


def test_text_keeps_its_size_on_a_phone(browser: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages()["classifier"], encoding="utf-8")
    browser.open(file, width=390, dark=False)
    smallest = (
        "Math.min(...[...document.querySelectorAll('.panel svg text, .small svg text')]"
        ".map(t => t.getBoundingClientRect().height))"
    )
    assert browser.evaluate(smallest) >= 9


def test_it_prints(browser: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages()["rpn"], encoding="utf-8")
    browser.open(file, width=1280, dark=True)
    browser.print_pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"
