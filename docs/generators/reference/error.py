"""The table of problem codes, from the tree of errors."""

from __future__ import annotations

from docs.generators.markdown import table
from enginefarm.client.error_mapping import tree
from enginefarm.contract.errors import EnginefarmError


def error_reference() -> str:
    """Markdown: code, HTTP status, exit code of the command line, title. One row for each code."""
    by_code: dict[str, type[EnginefarmError]] = {}
    for error in tree():
        # A class that shares its parent's code adds nothing that a caller can see.
        by_code.setdefault(error.code, error)
    rows = []
    for code, error in by_code.items():
        if error is not EnginefarmError:
            rows.append((f"`{code}`", str(error.status), str(error.exit_code), error.title))
    return table(("code", "HTTP status", "exit code", "title"), rows)
