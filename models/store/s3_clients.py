"""Open the two clients of an S3 server: minio for single requests, botocore for multipart uploads.

docs/adr/0013-s3-clients.md says why two. Both sign with the same credentials, address the bucket alike, use no proxy,
trust the same certificates and leave retries to `retries.py`.
"""

from __future__ import annotations

from typing import Any

import urllib3
from botocore.config import Config
from minio import Minio

from models.outbound.limited_answers import limit_botocore
from models.store.s3_credentials import S3Credentials
from models.store.s3_settings import S3Settings, split_endpoint


def open_minio(
    settings: S3Settings,
    credentials: S3Credentials | None,
    pool: urllib3.PoolManager | None,
    *,
    endpoint: str | None = None,
) -> Minio:
    """Return a minio client of `endpoint`, or of the endpoint of `settings`.

    Args:
        credentials: sign requests; None sends them unsigned.
        pool: the connections; None for a client that only presigns links.

    Raises:
        ValueError: the endpoint's host is none that the SDK accepts.
    """
    host, secure = split_endpoint(endpoint or settings.endpoint)
    try:
        client = Minio(host, credentials=credentials, secure=secure, region=settings.region, http_client=pool)
    except ValueError:  # a host of AWS of another form
        raise ValueError(f"S3 clients refuse the endpoint's host {host}; expected it without the bucket") from None
    match settings.addressing:
        case "virtual":
            client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]  # the SDK lacks its `-> None`
        case "path":
            client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return client


def open_botocore(settings: S3Settings, credentials: S3Credentials, *, connections: int) -> Any:
    """Return a botocore S3 client of the endpoint of `settings` that keeps up to `connections` connections open.

    The session behind it is not safe to share while a client is opened; the client is.
    """
    config = Config(
        retries={"total_max_attempts": 1},  # `retries.py` decides about the next try
        s3={
            "addressing_style": "virtual" if settings.virtual_hosts else "path",
            # Each part carries its Content-MD5, which is signed and checked by the server: hashing the part a second
            # time for its signature would only cost processor time.
            "payload_signing_enabled": False,
        },
        # By default botocore sends CRC-32 trailers that S3 servers older than 2025 refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = credentials.session.create_client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        config=config,
    )
    limit_botocore(client, connections=connections)

    def check_credentials(**_: object) -> None:
        credentials.retrieve()

    # botocore raises a bare RuntimeError or OSError for keys that it cannot refresh; `retrieve` explains them.
    client.meta.events.register_first("before-sign.s3", check_credentials)
    return client
