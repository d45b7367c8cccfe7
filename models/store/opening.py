"""From a URL to a store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from models.store.directory import DirectoryStore
from models.store.links import Links
from models.store.protocol import Store
from models.store.s3 import S3Store
from models.store.s3_settings import S3Settings

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"([\w.=-]+/)*[\w.=-]+", re.ASCII)


def open_store_url(url: str, *, s3: S3Settings | None, link_secret: bytes) -> Store:
    """The store at `file:///folder` or `s3://bucket[/prefix]`. Neither looked for nor made.

    Args:
        s3: how to reach the S3 server; only for `s3:`.
        link_secret: signs links; only for `file:`.

    Raises:
        ValueError: the URL is neither, or what it needs is missing.
    """
    parts = urlsplit(url)
    match parts.scheme:
        case "file":
            return DirectoryStore(_folder(parts), Links(link_secret))
        case "s3":
            if s3 is None:
                raise ValueError("a store in an S3 bucket needs an endpoint")
            return S3Store(*_bucket(parts), s3)
    raise ValueError(f"a store is file:///folder or s3://bucket/prefix; {parts.scheme or 'no'!r} scheme is not known")


def _folder(parts: SplitResult) -> Path:
    folder = Path(unquote(parts.path))
    if parts.netloc or parts.query or parts.fragment or not folder.is_absolute() or ".." in folder.parts:
        raise ValueError(f"{parts.geturl()!r} names no folder: expected file:/// and an absolute path without '..'")
    return folder


def _bucket(parts: SplitResult) -> tuple[str, str]:
    prefix = parts.path.strip("/")
    dotted = {".", ".."}.intersection(prefix.split("/"))
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or dotted or (prefix and not _PREFIX.fullmatch(prefix)):
        # Not repeated: credentials may have been put where they do not belong.
        raise ValueError("an S3 store is s3://bucket or s3://bucket/prefix, with plain names and no credentials")
    return parts.netloc, prefix
