"""The table of guards that planted faults replace, from the list that `make planted` works through."""

from __future__ import annotations

from docs.generators.markdown import table
from tests.planted.guards import GUARDS


def planted_guards() -> str:
    """Markdown: each guard, its file, and the tests that must notice its absence."""
    rows = []
    for guard in GUARDS:
        tests = ", ".join(f"`{path}`" for path in guard.tests.split())
        rows.append((guard.name, f"`{guard.file}`", tests))
    return table(("guard", "in", "noticed by"), rows)
