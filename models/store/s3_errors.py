"""What an S3 server or the way to it can do wrong, in words that an operator can act on.

The texts are ours alone: an S3 server's own messages may repeat credentials and what was signed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as TimedOut

from enginefarm.contract.errors import StoreUnavailable

_CREDENTIALS = "check ENGINEFARM_S3_ACCESS_KEY and ENGINEFARM_S3_SECRET_KEY"
_REGION = "check ENGINEFARM_S3_REGION and ENGINEFARM_S3_ENDPOINT"
_REMEDIES = {
    "NoSuchBucket": "create the bucket, or check ENGINEFARM_STORE_URL",
    "AccessDenied": f"{_CREDENTIALS}, that they may list, read, write and delete in the bucket, and the clock here",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "RequestTimeTooSkewed": "set the clock of this machine or of the server",
    "AuthorizationHeaderMalformed": _REGION,
    "BadRequest": _REGION,  # Swift's word for it
    "PermanentRedirect": _REGION,
}
_WORD = re.compile(r"[A-Za-z0-9.]{1,64}")


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn faults of the server at `where` and of the way to it into StoreUnavailable."""
    try:
        yield
    except (MinioException, HTTPError, ParseError) as error:
        # Not "from error": its text may hold what ours must not.
        raise StoreUnavailable(f"the S3 server at {where} {_what(error)}") from None


def _what(error: Exception) -> str:
    match error:
        case S3Error():
            code = error.code if error.code and _WORD.fullmatch(error.code) else "an unknown error"
            return f"answered {code}; {_REMEDIES.get(code, 'look at its log for why')}"
        case ServerError():
            return f"answered HTTP {error.status_code}; look at its log for why"
        case InvalidResponseError() | ParseError():
            return "answered with something that is not S3; check ENGINEFARM_S3_ENDPOINT and any proxy on the way"
        case SSLError():
            return (
                "has a certificate that is not trusted here; check its name, and SSL_CERT_FILE for a private authority"
            )
        case TimedOut() if not isinstance(error, NewConnectionError):  # which counts as a time-out, of connecting
            return "did not answer in time; check that it is well, and the network"
        case _:
            return f"cannot be reached ({type(error).__name__}); check ENGINEFARM_S3_ENDPOINT and that it runs"
