"""Pages of the site that lie elsewhere in the repository, and links that work in both places.

README.md is the site's first page, the notes in benchmarks/ are pages too. A link in the Markdown
leads to a file of the repository; here it is turned to that file's page, or to a copy of the file.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPO = Path(__file__).parents[2]
# File of the repository -> page of the site; those below docs/ have their own place in it.
ELSEWHERE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/classifier.md": "measured/classifier.md",
    "benchmarks/notebook.md": "measured/notebook.md",
    "benchmarks/rpn.md": "measured/rpn.md",
    "benchmarks/shards.md": "measured/shards.md",
    "benchmarks/startup.md": "measured/startup.md",
}
COPIES = "repository"
# An inline link or image: its text, target, anchor; URLs and bare anchors are left alone.
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!\w+:)(?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere, and copies of the files that some page links to."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(REPO / source)))
    pages = {repository_path(f.src_uri): f for f in files.documentation_pages()}
    wanted = {
        target
        for source, file in pages.items()
        for target in linked(source, file.content_string)
        if target not in pages and not target.startswith("docs/") and not (REPO / target).is_dir()
    }
    for target in sorted(wanted):
        if not (REPO / target).is_file():
            raise FileNotFoundError(f"{target}: a page links to it: name a file of the repository")
        copy = f"{COPIES}/{target}"
        files.append(File.generated(config, copy, abs_src_path=str(REPO / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links to files of the repository into links to pages and copies."""
    return links_for_page(markdown, repository_path(page.file.src_uri), page.file.src_uri)


def links_for_page(markdown: str, source: str, page: str) -> str:
    """Markdown of the file `source` of the repository, with links as seen from a page."""
    folder = posixpath.dirname(page)

    def turned(link: re.Match[str]) -> str:
        target = _target(source, link["target"])
        if (REPO / target).is_dir():
            return link["text"]  # the site has no page for a folder
        place = posixpath.relpath(site_path(target), folder)
        return f"[{link['text']}]({place}{link['anchor'] or ''})"

    return LINK.sub(turned, markdown)


def repository_path(page: str) -> str:
    """`index.md` -> `README.md`, `gpus.md` -> `docs/gpus.md`."""
    origins = {page: source for source, page in ELSEWHERE.items()}
    return origins.get(page, f"docs/{page}")


def site_path(target: str) -> str:
    """Where the site has a file of the repository."""
    if target in ELSEWHERE:
        return ELSEWHERE[target]
    own = target.removeprefix("docs/")
    return own if own != target else f"{COPIES}/{target}"


def linked(source: str, markdown: str) -> Iterator[str]:
    """The files of the repository that a Markdown file links to."""
    return (_target(source, link["target"]) for link in LINK.finditer(markdown))


def _target(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
