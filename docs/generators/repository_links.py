"""Links between pages of the site and files of the repository.

On GitHub a link to a source file opens the file. The site has no copy of the source, so that there the link becomes its
text, which names the path; a path that does not exist is an error in both. Some files outside docs/ are pages of the
site as well: a page of the site names the file whose text it shows.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.util import logging

log = logging.getLogger(__name__)

_TEXT_OF = re.compile(r"^<!-- the text of (\S+) -->\s*$")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def text_of_another_file(text: str, page: Path) -> tuple[Path, str] | None:
    """The file that the page shows, and its text. None for a page with text of its own."""
    only_line = _TEXT_OF.match(text)
    if only_line is None:
        return None
    file = (page.parent / only_line.group(1)).resolve()
    return file, file.read_text()


def links_for_the_site(text: str, *, file: Path, site: Path) -> str:
    """The text with each link made good for the site.

    Args:
        text: Markdown, with links as they are good on GitHub.
        file: where the text is from; its relative links start there.
        site: the folder of the site's pages.
    """
    pages = _pages_by_file(site)

    def replace(link: re.Match[str]) -> str:
        label, path, anchor = link.group(1), link.group(2), link.group(3) or ""
        target = (file.parent / path).resolve()
        target = pages.get(target, target)
        if target.is_relative_to(site) and target.suffix == ".md":
            return f"[{label}](/{target.relative_to(site)}{anchor})"
        if not target.exists():
            log.warning("%s links to %s, which does not exist", file, path)
        return label

    return _LINK.sub(replace, text)


def _pages_by_file(site: Path) -> dict[Path, Path]:
    """The pages whose text is that of a file outside the site, by that file."""
    pages = {}
    for page in site.glob("*.md"):
        if other := text_of_another_file(page.read_text(), page):
            file, _ = other
            pages[file] = page
    return pages
