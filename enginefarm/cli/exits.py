"""Exit codes, derived from the error tree."""

from __future__ import annotations

from enginefarm.client.error_mapping import tree
from enginefarm.contract.errors import EnginefarmError

OUTPUT_LOST = 1  # click's own for a pipe that was closed
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def table() -> dict[int, str]:
    """Return the meaning of every exit code: the titles of the topmost error classes that have it."""
    # Made from the classes, because a table by hand would miss the next error that somebody adds.
    titles: dict[int, list[str]] = {}
    for kind in tree():
        parent = kind.__mro__[1]
        # A class that inherits its code is a case of its parent's meaning.
        inherits_code = issubclass(parent, EnginefarmError) and parent.exit_code == kind.exit_code
        if not inherits_code:
            titles.setdefault(kind.exit_code, []).append(kind.title)
    meanings = {code: "; ".join(titles[code]) for code in sorted(titles)}
    meanings[OUTPUT_LOST] += "; or stdout is full, or its reader has gone"
    return {0: "Done"} | meanings | {INTERRUPTED: "Interrupted (Ctrl-C); a submitted build goes on"}
