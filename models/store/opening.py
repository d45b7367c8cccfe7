"""Open the store that a URL names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from models.store.directory import DirectoryStore
from models.store.links import Links
from models.store.protocol import Store
from models.store.s3 import S3Store
from models.store.s3_settings import S3Settings

# The rule of S3 for buckets. It excludes "@" and ":", so credentials in a URL never become a bucket.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"([\w.=-]+/)*[\w.=-]+", re.ASCII)


@dataclass(frozen=True)
class S3Location:
    """A bucket, and what the names of the store's objects begin with in it."""

    bucket: str
    prefix: str


def store_location(url: str) -> Path | S3Location:
    """Return the folder or the bucket that a store's URL names.

    Raises:
        ValueError: the URL has another form. The text repeats no part of it that may be a password.
    """
    url_parts = urlsplit(url)
    match url_parts.scheme:
        case "file":
            try:
                path = unquote(url_parts.path, errors="strict")
            except UnicodeDecodeError:
                raise ValueError("expected a path in UTF-8 after file://") from None
            folder = Path(path)
            has_more = url_parts.netloc or url_parts.query or url_parts.fragment
            if has_more or not folder.is_absolute() or ".." in folder.parts or not path.isprintable():
                raise ValueError("expected file:/// and an absolute path without '..' and control characters")
            return folder
        case "s3":
            prefix = url_parts.path.strip("/")
            has_dots = {".", ".."}.intersection(prefix.split("/"))
            bad_prefix = has_dots or (prefix and not _PREFIX.fullmatch(prefix))
            if not _BUCKET.fullmatch(url_parts.netloc) or url_parts.query or bad_prefix:
                # The text does not repeat the URL: somebody may have put credentials into it.
                raise ValueError("expected s3://bucket or s3://bucket/prefix, with plain names and no credentials")
            return S3Location(url_parts.netloc, prefix)
    raise ValueError(f"expected file:///folder or s3://bucket/prefix; the scheme {url_parts.scheme!r} is not known")


def open_store_url(url: str, *, s3: S3Settings | None, link_secret: bytes) -> Store:
    """Return the store at `file:///folder` or `s3://bucket[/prefix]`. It is neither looked for nor created.

    Args:
        s3: how to reach the S3 server; only for `s3:`.
        link_secret: signs links; only for `file:`.

    Raises:
        ValueError: the URL has another form, or `s3` is missing or has no usable keys.
    """
    location = store_location(url)
    if isinstance(location, Path):
        return DirectoryStore(location, Links(link_secret))
    if s3 is None:
        raise ValueError("a store in an S3 bucket needs an endpoint")
    return S3Store(location.bucket, location.prefix, s3)
