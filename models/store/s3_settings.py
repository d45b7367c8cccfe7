"""How to reach an S3 server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Addressing = Literal["auto", "path", "virtual"]


@dataclass(frozen=True)
class S3Settings:
    """Endpoints are `http://host:port` or `https://host`, without a path or a bucket.

    The bucket is named in the path or (`virtual`) in front of the host's name; `auto` is virtual for the hosts that the
    SDK knows to want it, AWS's among them.

    `public_endpoint` is the server as clients see it, for the links they are given; `endpoint` if unset.
    The region is what requests are signed for, so that nobody needs to ask the server.
    """

    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    public_endpoint: str | None = None
    addressing: Addressing = "auto"

    def __post_init__(self) -> None:
        for endpoint in filter(None, (self.endpoint, self.public_endpoint)):
            split_endpoint(endpoint)


def split_endpoint(endpoint: str) -> tuple[str, bool]:
    """(`host:port`, whether TLS is used). Raises ValueError for what is no endpoint, without repeating it."""
    parts = urlsplit(endpoint)
    extra = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in {"http", "https"} or not parts.hostname or extra:
        raise ValueError("an S3 endpoint is http://host:port or https://host:port, with no path and no credentials")
    return parts.netloc, parts.scheme == "https"
