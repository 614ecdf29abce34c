"""Parts of pages that are made when the site is built, so that they cannot go out of date.

In a page stands a comment on a line of its own:

    <!-- build: settings ClassifierConfig configs/classifier.yaml -->   every setting, its meaning
    <!-- build: differences ClassifierConfig A.yaml B.yaml -->          where two configs differ
    <!-- build: section benchmarks/rpn.md The step -->                  what stands under a heading
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from pages import links_for_page

import vocdist.config
from vocdist.config.file import load_config
from vocdist.config.help import Setting, settings_of

REPO = Path(__file__).parents[2]
COMMENT = re.compile(r"^<!-- build: (\w+) (.+) -->$", re.MULTILINE)


# After the page's own links were turned: those of a section are turned as it is read.
@event_priority(-50)
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the parts where the comments are."""
    return with_parts(markdown, page.file.src_uri)


def with_parts(markdown: str, page: str) -> str:
    """A page's Markdown with what its comments ask for."""
    makers: dict[str, Callable[..., str]] = {
        "settings": settings,
        "differences": differences,
        "section": lambda *words: section(*words, page=page),
    }
    return COMMENT.sub(lambda found: makers[found[1]](*found[2].split()), markdown)


def settings(config_type: str, config: str | None = None) -> str:
    """A list of all settings: key, default, type and meaning, under a heading for each section."""
    kind = getattr(vocdist.config, config_type)
    values = load_config(kind, REPO / config) if config else None
    return "\n".join(line for item in settings_of(kind, values) for line in _lines(item))


def differences(config_type: str, first: str, second: str) -> str:
    """A table of the settings in which two config files differ, but for the run's folder."""
    kind = getattr(vocdist.config, config_type)
    ours, theirs = (
        {item.key: item.value for item in settings_of(kind, load_config(kind, REPO / path))}
        for path in (first, second)
    )
    rows = [
        f"| `{key}` | `{value}` | `{theirs[key]}` |"
        for key, value in ours.items()
        if value != theirs[key] and key != "run.dir"
    ]
    return "\n".join([f"| | `{first}` | `{second}` |", "|---|---|---|", *rows])


def section(source: str, *heading: str, page: str) -> str:
    """What stands under a heading of a Markdown file, up to the next of its level or above."""
    text = (REPO / source).read_text(encoding="utf-8")
    title = " ".join(heading)
    found = re.search(rf"^(#+) {re.escape(title)}$(.*?)(?=^#{{1,2}} |\Z)", text, re.M | re.S)
    if found is None:
        raise LookupError(f"{source} has no heading '{title}': name one it has in {page}")
    return links_for_page(found[2].strip(), source, page)


def _lines(item: Setting) -> Iterator[str]:
    if item.value is None:
        yield f"\n### {item.key}\n\n{item.meaning}\n"
    else:
        yield f"`{item.key}={item.value}`\n:   {item.meaning}<br>*{item.kind}*\n"
