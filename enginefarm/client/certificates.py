"""The certificate authorities that the client trusts, and what to do when it trusts none of a server's."""

from __future__ import annotations

import os
import ssl
from datetime import datetime, timezone
from functools import cache
from pathlib import Path

import certifi

from enginefarm.contract.errors import InvalidRequest

_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_… of OpenSSL
# Variables of other programs that name authorities.
_OTHERS_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def trusted_certificates() -> ssl.SSLContext:
    """Trusts what SSL_CERT_FILE and SSL_CERT_DIR name; without them the system's authorities and certifi's.

    A private authority is in the system's store on many sites, and a slim container has no such store.

    Raises:
        InvalidRequest: the variable names nothing that has certificates.
    """
    return _tls_context(os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None)


# Loading the system's certificates takes tens of milliseconds, and each pool needs a context.
@cache
def _tls_context(cafile: str | None, capath: str | None) -> ssl.SSLContext:
    if cafile is None and capath is None:
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        return context
    # OpenSSL takes several folders, and ignores a missing one.
    folders = capath.split(os.pathsep) if capath else []
    if cafile is None and not any(Path(folder).is_dir() for folder in folders):
        raise InvalidRequest(
            f"SSL_CERT_DIR={capath} is not a folder: name a folder of certificates as `openssl rehash` makes it, or "
            "unset SSL_CERT_DIR"
        )
    try:
        return ssl.create_default_context(cafile=cafile, capath=capath)
    except OSError as error:  # ssl.SSLError is one too
        reason = error.strerror
        if isinstance(error, ssl.SSLError) or not reason:
            reason = "it has no certificate in PEM form"
        raise InvalidRequest(
            f"SSL_CERT_FILE={cafile} cannot be used ({reason}): name a file of certificates in PEM form, or unset "
            "SSL_CERT_FILE"
        ) from error


def advice_on(error: BaseException) -> str:
    """What to do about a TLS connection that failed with `error`, as the end of an error text."""
    # urllib3 wraps the error of the ssl module in its own, as an argument.
    cause: object = error
    while isinstance(cause, Exception) and not isinstance(cause, ssl.SSLError) and cause.args:
        cause = cause.args[0]
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return "Does the server speak TLS? Otherwise its URL begins with http://"
    if cause.verify_code in {_NOT_YET_VALID, _EXPIRED}:
        return (
            f"This machine's clock shows {datetime.now(timezone.utc):%Y-%m-%d %H:%MZ}: set it, or renew the certificate"
        )
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(name):
            return f"Only the authorities of {name}={os.environ[name]} are trusted"
    ignored = [name for name in _OTHERS_VARIABLES if os.environ.get(name)]
    if ignored:
        return f"SSL_CERT_FILE names a private certificate authority; {ignored[0]} is not read"
    return "SSL_CERT_FILE names a private certificate authority"
