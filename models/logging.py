"""Logging of the farm's processes: to stderr, without secrets."""

from __future__ import annotations

import logging

# httpx logs every URL that it requests, and a presigned link is a secret.
_LOGS_URLS = ("httpx", "httpcore")


def start_logging() -> None:
    """Configure the root logger. Called once, at the start of a process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _LOGS_URLS:
        logging.getLogger(name).setLevel(logging.WARNING)
