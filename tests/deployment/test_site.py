"""The documentation builds as a site without a warning, can be read without a network, and has no broken link."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# What a browser fetches by itself when it shows a page, by element.
LOADED_ATTRIBUTES = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors of one page, what it links to, and what a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        for name in ("id", "name"):
            if anchor := attributes.get(name):
                self.anchors.add(anchor)
        if tag == "a" and (link := attributes.get("href")):
            self.links.append(link)
        loads = attributes.get(LOADED_ATTRIBUTES.get(tag, ""))
        if loads and attributes.get("rel") not in ("index", "next", "prev", "search", "canonical"):
            self.loaded.append(loads)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, "docs", folder], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert build.returncode == 0, build.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_the_test_builds_what_make_docs_builds() -> None:
    recipe = "-m sphinx --builder html --fail-on-warning --keep-going --quiet docs"
    assert recipe in (CHECKOUT / "Makefile").read_text()


def test_every_link_inside_the_site_has_a_target(pages: dict[Path, Page]) -> None:
    broken = []
    for page in pages.values():
        for link in page.links:
            if urlsplit(link).scheme:
                continue
            address, anchor = urldefrag(link)
            target = (page.path.parent / unquote(address)).resolve() if address else page.path
            exists = target in pages or target.is_file()
            has_anchor = not anchor or target not in pages or unquote(anchor) in pages[target].anchors
            if not (exists and has_anchor):
                broken.append(f"{page.path.name}: {link}")
    assert broken == []


def test_links_to_other_sites_are_encrypted(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        for link in page.links:
            assert urlsplit(link).scheme in ("", "https", "mailto"), f"{page.path.name}: {link}"


def test_a_page_loads_nothing_from_a_network(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        for address in page.loaded:
            assert not urlsplit(address).netloc, f"{page.path.name} loads {address}"
            file = page.path.parent / unquote(urlsplit(address).path)
            assert file.is_file(), f"{page.path.name} loads {address}, which is not in the site"
    for style_sheet in site.rglob("*.css"):
        text = style_sheet.read_text()
        assert "url(http" not in text, style_sheet.name
        assert "url(//" not in text, style_sheet.name


def test_no_marker_is_left(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert "<!-- generated:" not in page.path.read_text(), page.path.name
