"""Translate failures of the store's S3 server, and of the network to it, into StoreUnavailable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from enginefarm.contract.errors import StoreUnavailable
from models.outbound.s3_faults import S3_ERRORS, STORE_SETTINGS, fault_of


@contextmanager
def translate_errors(server: str) -> Iterator[None]:
    """Turn the errors of both S3 clients into StoreUnavailable.

    Args:
        server: endpoint and bucket, for the text.
    """
    try:
        yield
    except S3_ERRORS as error:
        fault = fault_of(error, STORE_SETTINGS)
        # Not "from error": a traceback would show the text of the server.
        raise StoreUnavailable(f"the S3 server at {server} {fault.text}", lasting=fault.lasting) from None
