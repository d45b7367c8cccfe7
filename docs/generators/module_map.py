"""The map of the modules: each folder's modules with the first sentence of their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.generators.markdown import escaped, table

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("enginefarm", "models", "toolchains", "api", "workers", "migrations", "local", "demo", "benchmarks")


def module_map() -> str:
    """Markdown: a chapter for each package, a table for each of its folders."""
    sections = []
    for package in PACKAGES:
        sections.append(f"## {package}")
        folders = {module.parent for module in (CHECKOUT / package).rglob("*.py")}
        for folder in sorted(folders):
            # The names of migrations say what each of them is.
            if folder.name == "versions":
                continue
            rows = []
            for module in sorted(folder.glob("*.py")):
                docstring = ast.get_docstring(ast.parse(module.read_text()))
                if docstring:
                    rows.append((f"`{module.name}`", _first_sentence(docstring)))
            if rows:
                sections += [f"### `{folder.relative_to(CHECKOUT)}/`", table(("module", "purpose"), rows)]
    return "\n\n".join(sections)


def _first_sentence(docstring: str) -> str:
    """The docstring's first paragraph, cut after its first sentence."""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    sentence, full_stop, _ = paragraph.partition(". ")
    return escaped((sentence + full_stop).strip())
