"""How the farm's processes log: to stderr, and no secrets."""

from __future__ import annotations

import logging

# httpx tells of every URL it asks, and a presigned link is a secret.
_TELLTALES = ("httpx", "httpcore")


def start_logging() -> None:
    """Once, where a process starts."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _TELLTALES:
        logging.getLogger(name).setLevel(logging.WARNING)
