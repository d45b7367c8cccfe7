"""Translate failures of an S3 server, and of the network to it, into errors that an operator can act on.

No text of a server is repeated: it may contain an access key and the string that was signed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree.ElementTree import ParseError

import botocore.exceptions
import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from enginefarm.contract.errors import StoreUnavailable
from models.outbound.limited_answers import AnswerRefused

_CREDENTIALS = "check ENGINEFARM_S3_ACCESS_KEY and ENGINEFARM_S3_SECRET_KEY, or the role that they stand in for"
_REGION = "check ENGINEFARM_S3_REGION and ENGINEFARM_S3_ENDPOINT"
_REMEDIES = {
    "NoSuchBucket": "create the bucket, or check ENGINEFARM_STORE_URL",
    "AccessDenied": f"{_CREDENTIALS}, that they may list, read, write and delete in the bucket, and the clock here",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "RequestTimeTooSkewed": "set the clock of this machine or of the server",
    "AuthorizationHeaderMalformed": _REGION,
    "BadRequest": _REGION,  # Swift answers this to a request that is signed for another region
    "PermanentRedirect": _REGION,
    "BadDigest": "the bytes were damaged on the way; check the network and any proxy",
}
# A code is repeated only in this form: a server, or a proxy before it, may put anything there.
_SAFE_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
# What a call of botocore raises; the error of its parser is not derived from the others.
BOTOCORE_ERRORS = (BotoCoreError, ClientError, ResponseParserError)
_SSL_ERRORS = (urllib3.exceptions.SSLError, botocore.exceptions.SSLError)
_TIMEOUTS = (
    urllib3.exceptions.TimeoutError,
    botocore.exceptions.ConnectTimeoutError,
    botocore.exceptions.ReadTimeoutError,
)


@contextmanager
def translate_errors(server: str) -> Iterator[None]:
    """Turn the errors of both S3 clients into StoreUnavailable.

    Args:
        server: endpoint and bucket, for the text.
    """
    try:
        yield
    # Both SDKs let errors of the layers below them through.
    except (
        MinioException,
        urllib3.exceptions.HTTPError,
        ParseError,  # minio raises it for an answer that is not XML
        *BOTOCORE_ERRORS,
    ) as error:
        failure = f"cannot be reached ({type(error).__name__}); check ENGINEFARM_S3_ENDPOINT and that it runs"
        match error:
            case AnswerRefused():
                failure = str(error)
            case S3Error():
                failure = _explain_code(error.code or "")
            case ClientError():
                failure = _explain_code(error_code(error))
            case ServerError():
                failure = f"answered HTTP {error.status_code}; look at its log for why"
            case InvalidResponseError() | ParseError() | ResponseParserError():
                failure = (
                    "answered with something that is not S3; check ENGINEFARM_S3_ENDPOINT and any proxy on the way"
                )
            # urllib3 derives the failure to connect from the time-out of connecting, although nothing timed out.
            case urllib3.exceptions.NewConnectionError():
                pass
            case _ if isinstance(error, _SSL_ERRORS):
                failure = (
                    "has a certificate that is not trusted here; check its name, and SSL_CERT_FILE for a private "
                    "authority"
                )
            case _ if isinstance(error, _TIMEOUTS):
                failure = "did not answer in time; check that it is well, and the network"
        # Not "from error": a traceback would show the text of the server.
        raise StoreUnavailable(f"the S3 server at {server} {failure}") from None


def error_code(error: ClientError) -> str:
    """Return the S3 error code of an answer, such as NoSuchUpload; the HTTP status if the answer has no code."""
    return str(error.response["Error"].get("Code", ""))


def _explain_code(code: str) -> str:
    if code.isdecimal():  # botocore's code for an answer without a body
        return f"answered HTTP {code}; look at its log for why"
    if not _SAFE_CODE.fullmatch(code):
        return "answered an unknown error; look at its log for why"
    return f"answered {code}; {_REMEDIES.get(code, 'look at its log for why')}"
