"""Read answers of S3 servers in which servers, and proxies before them, differ."""

from __future__ import annotations

from collections.abc import Iterator

from minio import Minio
from minio.datatypes import Object

from models.outbound.limited_answers import NotS3


def listed_objects(client: Minio, bucket: str, prefix: str, *, recursive: bool = False) -> Iterator[Object]:
    """Yield the objects below `prefix`, page by page.

    Raises:
        NotS3: a page is XML, but no listing. Other errors are those of the SDK.
    """
    pages = client.list_objects(bucket, prefix, recursive=recursive)
    while True:
        try:
            item = next(pages, None)
        except ValueError as error:  # the SDK's, for an element that is missing or malformed
            raise NotS3("XML that is no listing") from error
        if item is None:
            return
        yield item


def bare_etag(etag: str | None) -> str:
    """Return an ETag without its quotes and without the mark of a weak one; "" for None.

    Servers differ in the quotes, and a proxy that may change the encoding of answers makes ETags weak: `W/"..."`. The
    farm asks for bytes as they are stored, and compares the size too.
    """
    return (etag or "").strip().removeprefix("W/").replace("&quot;", "").strip('"')
