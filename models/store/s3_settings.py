"""Describe an S3 server and how to reach it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from botocore.exceptions import InvalidRegionError
from botocore.utils import is_valid_endpoint_url, validate_region_name

Addressing = Literal["auto", "path", "virtual"]

# `auto` names the bucket in the host for these alone: AWS and Alibaba Cloud refuse or phase out the bucket in the path,
# and other servers need a wildcard DNS name for hosts of buckets. The minio SDK follows the same rule.
_VIRTUAL_HOST_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".aliyuncs.com")
# The hosts of S3 in one region; s3.amazonaws.com is that of all.
_AWS_REGION = re.compile(r"s3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-[0-9]+)\.amazonaws\.com(?:\.cn)?")


@dataclass(frozen=True)
class S3Settings:
    """How requests to an S3 server are addressed and signed.

    Args:
        endpoint: `http://host:port` or `https://host`, without a path or a bucket.
        access_key, secret_key: the keys that sign requests; None for both takes them from the standard chain of AWS
            clients (`s3_credentials.py`).
        region: what requests are signed for, so that no request has to ask the server.
        public_endpoint: the server as clients reach it, for presigned links; `endpoint` if None.
        addressing: whether the bucket is in the path or in the host name (`virtual`); `auto` is virtual for AWS and
            Alibaba Cloud, and path otherwise.

    Raises:
        ValueError: an endpoint or the region is not valid, they contradict each other, or only one of the two keys is
            set. The text repeats no key.
    """

    endpoint: str
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    public_endpoint: str | None = None
    addressing: Addressing = "auto"

    def __post_init__(self) -> None:
        split_endpoint(self.endpoint)
        if self.public_endpoint is not None:
            split_endpoint(self.public_endpoint)
        # Both clients must accept them: minio would, and the first upload in parts would fail much later.
        if not is_valid_endpoint_url(self.endpoint):
            raise ValueError(
                "the host name of the S3 endpoint has characters that S3 clients refuse; expected letters, digits, "
                "hyphens and dots: rename the host, for example minio_1 to minio-1"
            )
        try:
            validate_region_name(self.region)
        except InvalidRegionError:
            raise ValueError(
                f"the S3 region is {self.region!r}; expected letters, digits and hyphens, as us-east-1"
            ) from None
        for endpoint in filter(None, (self.endpoint, self.public_endpoint)):
            match = _AWS_REGION.fullmatch(urlsplit(endpoint).hostname or "")
            if match is not None and match[1] != self.region:
                # The minio SDK would follow the region, botocore the endpoint.
                raise ValueError(f"the endpoint is of the region {match[1]}, but the region is set to {self.region}")
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("an S3 server needs an access key and a secret key, or neither: only one of them is set")

    @property
    def virtual_hosts(self) -> bool:
        """True if requests to `endpoint` name the bucket in the host name."""
        if self.addressing == "auto":
            hostname = urlsplit(self.endpoint).hostname or ""
            return hostname.endswith(_VIRTUAL_HOST_DOMAINS)
        return self.addressing == "virtual"


def split_endpoint(endpoint: str) -> tuple[str, bool]:
    """Return (`host:port`, True if the scheme is https).

    Raises:
        ValueError: `endpoint` has another form. The text does not repeat it, because it may hold credentials.
    """
    url = urlsplit(endpoint)
    extra = url.path.strip("/") or url.query or url.fragment or "@" in url.netloc
    if url.scheme not in {"http", "https"} or not url.hostname or extra:
        raise ValueError("an S3 endpoint is http://host:port or https://host:port, with no path and no credentials")
    return url.netloc, url.scheme == "https"
