"""From a URL to a store: `file:///folder` or `s3://bucket/prefix`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from models.store.directory import DirectoryStore
from models.store.links import LinkSigner
from models.store.protocol import Store
from models.store.s3 import S3Settings, S3Store


def open_store_url(url: str, *, s3: S3Settings | None, link_secret: bytes) -> Store:
    """Raises ValueError if `url` names no store, or names a bucket without settings to reach it."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return DirectoryStore(Path(parts.path), LinkSigner(link_secret))
    if parts.scheme == "s3" and parts.netloc and s3 is not None:
        return S3Store(parts.netloc, parts.path, s3)
    raise ValueError(f"{url!r} names no store: expected file:///absolute/folder or s3://bucket/prefix")
