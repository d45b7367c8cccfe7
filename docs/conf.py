"""How Sphinx builds this site: `make docs`. No network is needed to build it or to read it.

Pages are Markdown. A page may hold a line `<!-- generated: NAME -->`; the generator of that name writes the text that
takes its place, from the code or the data, so that it cannot be out of date. A page that consists of the line
`<!-- the text of PATH -->` is the file at that path, relative to the page.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))  # the generators import the farm's own packages

from docs.generators.markers import fill_in_markers  # noqa: E402
from docs.generators.repository_links import links_for_the_site, text_of_another_file  # noqa: E402
from enginefarm.version import __version__  # noqa: E402

project = "Enginefarm"
author = "The Enginefarm authors"
project_copyright = "The Enginefarm authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["generators", "_build", "pictures"]
source_suffix = {".md": "markdown"}
master_doc = "index"

# Headings down to this depth can be the target of a link, as on GitHub: page.md#heading-in-lower-case.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
nitpicky = True

html_theme = "furo"
html_title = f"Enginefarm {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Change a page's text before it is parsed. Sphinx passes the text as a list of one string."""
    site = Path(app.srcdir)
    file = site / f"{page}.md"
    if other := text_of_another_file(source[0], file):
        file, source[0] = other
    source[0] = links_for_the_site(fill_in_markers(source[0]), file=file, site=site)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
