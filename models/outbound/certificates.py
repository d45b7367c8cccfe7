"""Check the files of certificate authorities that the environment names: without them no call with TLS can succeed."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

# What OpenSSL, the hub's client and botocore read.
_FILES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")


def require_certificates(environment: Mapping[str, str]) -> None:
    """Return if each variable that is set names certificates.

    Raises:
        ValueError: a file is missing, cannot be read or has no certificate, or SSL_CERT_DIR is no folder.
    """
    for name in _FILES:
        path = environment.get(name)
        if not path:
            continue
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:  # ssl.SSLError, for a file of another form, is one
            reason = error.strerror
            if isinstance(error, ssl.SSLError) or not reason:
                reason = "it has no certificate in PEM form"
            raise ValueError(
                f"{name}={path} cannot be used ({reason}): name a file of certificates in PEM form, or unset {name}"
            ) from None
    folder = environment.get("SSL_CERT_DIR")
    # OpenSSL takes several, and ignores those that are missing.
    if folder and not any(Path(part).is_dir() for part in folder.split(":")):
        raise ValueError(f"SSL_CERT_DIR={folder} is no folder: name a folder of certificates, or unset SSL_CERT_DIR")
