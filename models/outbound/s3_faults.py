"""Explain failures of an S3 server, and of the network to it, so that an operator can act on them.

No text of a server is repeated: it may contain an access key and the string that was signed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree.ElementTree import ParseError

import botocore.exceptions
import urllib3.exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from models.outbound.limited_answers import AnswerRefused, NotS3, Redirected

# A code, a region or a host is repeated only in these forms: a server, or a proxy before it, may put anything there.
_SAFE_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_SAFE_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
# An XML document that names the region that the bucket is in, or that the request should be signed for.
_REGION_ELEMENT = re.compile(r"<Region>\s*([^<]*?)\s*</Region>")
# What a call of botocore raises; the error of its parser is not derived from the others.
BOTOCORE_ERRORS = (BotoCoreError, ClientError, ResponseParserError)
# What a call of either SDK raises. Both let errors of the layers below them through: ParseError for broken XML.
S3_ERRORS = (MinioException, urllib3.exceptions.HTTPError, ParseError, *BOTOCORE_ERRORS)
_SSL_ERRORS = (urllib3.exceptions.SSLError, botocore.exceptions.SSLError)
_TIMEOUTS = (
    urllib3.exceptions.TimeoutError,
    botocore.exceptions.ConnectTimeoutError,
    botocore.exceptions.ReadTimeoutError,
)
# Codes that may pass although their status is no 5xx.
_PASSING_CODES = {"RequestTimeout", "SlowDown", "OperationAborted", "Throttling", "ThrottlingException", "Redirect",
                  "TemporaryRedirect", "TooManyRequests", "RequestLimitExceeded"}  # fmt: skip
_PASSING_STATUSES = {408, 425, 429}
_REDIRECTS = {"PermanentRedirect", "MovedPermanently"}
# Of a request that is signed for another region; Swift answers BadRequest.
_REGION_CODES = {"AuthorizationHeaderMalformed", "BadRequest", "IllegalLocationConstraintException"} | _REDIRECTS
_NOT_S3 = (
    "answered {what} instead of S3: {endpoint} must be the S3 API itself, not a web console or another server, and a "
    "proxy on the way must pass its answers on"
)


@dataclass(frozen=True)
class S3SettingNames:
    """The settings that error texts name for one S3 server."""

    prefix: str  # as in ENGINEFARM_S3
    bucket: str  # what names the bucket

    @property
    def endpoint(self) -> str:
        return f"{self.prefix}_ENDPOINT"

    @property
    def region(self) -> str:
        return f"{self.prefix}_REGION"

    @property
    def keys(self) -> str:
        return f"{self.prefix}_ACCESS_KEY and {self.prefix}_SECRET_KEY"


STORE_SETTINGS = S3SettingNames("ENGINEFARM_S3", "ENGINEFARM_STORE_URL")
MODELS_SETTINGS = S3SettingNames("ENGINEFARM_MODELS_S3", "the model's reference")


@dataclass(frozen=True)
class S3Fault:
    """What is wrong with an S3 server, as the predicate of a sentence, and whether it stays until a person mends it."""

    text: str
    lasting: bool


def fault_of(error: Exception, settings: S3SettingNames) -> S3Fault:
    """Explain an error of an S3 client. The first matching case decides, from specific to general."""
    match error:
        case NotS3():
            return S3Fault(_NOT_S3.format(what=error, endpoint=settings.endpoint), lasting=True)
        case Redirected(to_https=True):
            return S3Fault(f"redirects to https; write https:// in {settings.endpoint}", lasting=True)
        case Redirected():
            code = "TemporaryRedirect" if error.status in {302, 307} else "PermanentRedirect"
            return _fault_of_code(code, error.status, error.region, settings)
        case AnswerRefused():
            return S3Fault(str(error), lasting=True)
        case S3Error():
            return _fault_of_code(error.code or "", error.response.status, _region_of(error), settings)
        case ClientError():
            answer = error.response["ResponseMetadata"]
            region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region") or error.response["Error"].get("Region")
            return _fault_of_code(error_code(error), answer["HTTPStatusCode"], region, settings)
        case ServerError():
            return S3Fault(f"answered HTTP {error.status_code}; look at its log for why", error.status_code < 500)
        case InvalidResponseError(_code=int(status)) if status >= 500 or status in _PASSING_STATUSES:
            return S3Fault(f"answered HTTP {status}; look at its log, and at any proxy on the way", lasting=False)
        case InvalidResponseError() | ParseError() | ResponseParserError():
            return S3Fault(_NOT_S3.format(what="something else", endpoint=settings.endpoint), lasting=True)
        case urllib3.exceptions.NameResolutionError():
            return S3Fault(
                f"cannot be found: its name has no address here; check {settings.endpoint} and the name server", False
            )
        # urllib3 derives the failure to connect from the time-out of connecting, although nothing timed out.
        case urllib3.exceptions.NewConnectionError():
            pass
        case _ if isinstance(error, _SSL_ERRORS):
            return S3Fault(
                "has a certificate that is not trusted here; check its name, the scheme of "
                f"{settings.endpoint}, and SSL_CERT_FILE for a private authority",
                lasting=True,
            )
        case _ if isinstance(error, _TIMEOUTS):
            return S3Fault(
                f"did not answer in time; check {settings.endpoint}, that it is well, and the network", False
            )
    name = type(error).__name__
    return S3Fault(f"cannot be reached ({name}); check {settings.endpoint} and that it runs", lasting=False)


def error_code(error: ClientError) -> str:
    """Return the S3 error code of an answer, such as NoSuchUpload; the HTTP status if the answer has no code."""
    return str(error.response["Error"].get("Code", ""))


def _fault_of_code(code: str, status: int, region: str | None, settings: S3SettingNames) -> S3Fault:
    if code.isdecimal():  # botocore's code for an answer without a body
        code = {"301": "PermanentRedirect", "307": "TemporaryRedirect"}.get(code, code)
    lasting = code not in _PASSING_CODES and status < 500 and status not in _PASSING_STATUSES
    if code.isdecimal():
        return S3Fault(f"answered HTTP {code}; look at its log for why", lasting)
    if not _SAFE_CODE.fullmatch(code):
        return S3Fault("answered an unknown error; look at its log for why", lasting)
    return S3Fault(f"answered {code}; {_remedy(code, region, settings)}", lasting)


def _remedy(code: str, region: str | None, settings: S3SettingNames) -> str:
    keys = f"check {settings.keys}, or the role that they stand in for"
    if code in _REGION_CODES:
        if region is None or not _SAFE_REGION.fullmatch(region):
            return f"check {settings.region}, and that {settings.endpoint} is the endpoint of the bucket's region"
        remedy = f"the bucket is in the region {region}: set {settings.region}={region}"
        if code in _REDIRECTS:
            remedy += f", and {settings.endpoint} to the endpoint of that region"
        return remedy
    match code:
        case "TemporaryRedirect" | "Redirect":
            return (
                f"the bucket is being moved: set {settings.endpoint} to the endpoint of its region, or try again later"
            )
        case "NoSuchBucket":
            return f"create the bucket, or check {settings.bucket}"
        case "AccessDenied":
            return f"{keys}, that they may list, read, write and delete in the bucket, and the clock here"
        case "AllAccessDisabled" | "AccountProblem" | "UserSuspended" | "InvalidPayer":
            return "its provider has shut the account or the bucket off: ask the provider"
        case "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired":
            return keys
        case "RequestTimeTooSkewed":
            return "set the clock of this machine or of the server"
        case "BadDigest":
            return "the bytes were damaged on the way; check the network and any proxy"
        case "SlowDown" | "ServiceUnavailable" | "TooManyRequests" | "Throttling" | "ThrottlingException":
            return "it asks for fewer requests; try again later"
    return "look at its log for why"


def _region_of(error: S3Error) -> str | None:
    """Return the region that the server names in a header or in its document; None if it names none."""
    region: str | None = error.response.headers.get("x-amz-bucket-region")
    if region is None:
        document = error.response.data or b""  # None for the answer to HEAD
        match = _REGION_ELEMENT.search(document.decode(errors="replace"))
        if match is not None:
            region = match[1]
    return region
