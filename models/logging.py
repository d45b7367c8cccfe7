"""Logging of the farm's processes: to stderr, without secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterable

_QUIET = {
    # They log every URL that they request, and a presigned link is a secret.
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    # It logs a traceback for each failed refresh, which the store's error explains in one line.
    "botocore.credentials": logging.ERROR,
}

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_MIN_SECRET_LENGTH = 4  # shorter ones would be found in words

_secrets: set[str] = set()


class SecretsFormatter(logging.Formatter):
    """Replaces secrets in the finished text, tracebacks included: libraries log what a server answers."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in _secrets:
            text = text.replace(secret, "***")
        return text


def hide_in_logs(secrets: Iterable[str]) -> None:
    """Keep these texts out of every later log line of this process."""
    _secrets.update(secret for secret in secrets if len(secret) >= _MIN_SECRET_LENGTH)


def start_logging() -> None:
    """Configure the root logger. Called once, at the start of a process."""
    handler = logging.StreamHandler()
    handler.setFormatter(SecretsFormatter(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
