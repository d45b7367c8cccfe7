"""Exit codes: the error tree, read by its `exit_code`."""

from __future__ import annotations

from enginefarm.client.error_mapping import tree
from enginefarm.contract.errors import EnginefarmError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def table() -> dict[int, str]:
    """What each exit code means, in the words of the topmost errors that have it."""
    meanings: dict[int, list[str]] = {}
    for kind in tree():
        parent = kind.__mro__[1]
        if not (issubclass(parent, EnginefarmError) and parent.exit_code == kind.exit_code):
            meanings.setdefault(kind.exit_code, []).append(kind.title)
    named = {code: "; ".join(titles) for code, titles in sorted(meanings.items())}
    return {0: "Done"} | named | {INTERRUPTED: "Interrupted (Ctrl-C); a submitted build goes on"}
