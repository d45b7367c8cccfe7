"""Find the keys that sign S3 requests: explicit ones, or the standard chain of AWS clients.

botocore walks the chain and refreshes what expires: environment variables, the shared config and credentials files with
their profile, a web identity token (IRSA in Kubernetes), a container's role, an instance's role. So a farm on a cloud
needs no static secret. Both S3 clients of the store sign with what this module returns.
"""

from __future__ import annotations

import os
from typing import Any

from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError
from botocore.session import Session
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider

from enginefarm.contract.errors import StoreUnavailable
from models.outbound import time_limit
from models.outbound.header_values import require_header_value
from models.outbound.s3_faults import BOTOCORE_ERRORS
from models.outbound.uninterruptible import Uninterruptible

_PLACES = (
    "the environment (AWS_ACCESS_KEY_ID), the shared files (~/.aws/credentials and ~/.aws/config, AWS_PROFILE), a web "
    "identity (AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN), the container's role and the instance's role"
)

# To get keys from the chain. botocore alone would wait for minutes for a token service, and for ever for a program.
CHAIN_SECONDS = 10.0
_SERVICE = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
_chain_calls: Uninterruptible[Any] = Uninterruptible("S3 credentials", most=4)


class S3Credentials(Provider):
    """Keys that are valid now, for both clients: the minio SDK calls `retrieve`, botocore signs with `session`.

    One session serves both, so that expiring keys are refreshed once.

    Args:
        access_key, secret_key: explicit keys; None for both asks the standard chain.

    Raises:
        ValueError: the chain finds no keys, cannot be read, or does not answer; or a key cannot be sent in a header.
            The text says where it looked and repeats no value.
    """

    def __init__(self, access_key: str | None = None, secret_key: str | None = None) -> None:
        session_vars = None
        if access_key is not None:
            # This machine's AWS files must not matter then: a mistyped AWS_PROFILE alone would fail every upload.
            session_vars = {
                "profile": (None, None, None, None),
                "config_file": (None, None, os.devnull, None),
                "credentials_file": (None, None, os.devnull, None),
            }
        self.session = Session(session_vars=session_vars)
        self.session.set_default_client_config(_SERVICE)  # of a token service; clients of S3 have their own limits
        if access_key is not None:
            self.session.set_credentials(access_key, secret_key)
        try:
            credentials = _chain_calls.run(self.session.get_credentials, CHAIN_SECONDS)
        except TimeoutError:
            raise ValueError(
                f"no S3 credentials came within {CHAIN_SECONDS:.0f} s: a source of the standard chain does not answer; "
                f"set both keys, or check {_PLACES}"
            ) from None
        except (BotoCoreError, OSError, ValueError) as error:
            # OSError, ValueError: a credential process does not start, or prints no JSON. Its text is not shown:
            # it may quote a file, or what a credential process printed.
            raise ValueError(f"the S3 credentials cannot be read ({type(error).__name__}); checked {_PLACES}") from None
        if credentials is None:
            raise ValueError(f"no S3 credentials are set and none were found; checked {_PLACES}")
        if not isinstance(credentials, RefreshableCredentials):
            frozen = credentials.get_frozen_credentials()
            for name, value in zip(("access key", "secret key", "session token"), frozen[:3], strict=True):
                try:
                    require_header_value(value or "")
                except ValueError as error:
                    raise ValueError(f"the S3 {name} ({credentials.method}): {error}") from None
        self._credentials = credentials

    def retrieve(self) -> Credentials:
        """Return keys that are valid now; temporary ones are refreshed some minutes before they expire.

        Raises:
            StoreUnavailable: the service that issues them does not answer or refuses.
        """
        try:
            frozen = self._frozen()
        except TimeoutError:
            raise StoreUnavailable(
                f"the farm's S3 credentials ({self._credentials.method}) cannot be refreshed: their service does not "
                "answer; check that it runs and can be reached"
            ) from None
        # RuntimeError: the refreshed keys have expired already. OSError and ValueError: a token file is missing, or a
        # credential process prints something else.
        except (*BOTOCORE_ERRORS, RuntimeError, OSError, ValueError) as error:
            # No text of the service, and no cause: it may show the identity token that was sent.
            cause = type(error).__name__
            if isinstance(error, OSError) and error.filename:  # of a token, such as AWS_WEB_IDENTITY_TOKEN_FILE
                cause = f"{error.filename}: {error.strerror}"
            raise StoreUnavailable(
                f"the farm's S3 credentials ({self._credentials.method}) cannot be refreshed: {cause}; "
                "check the role, its trust policy, and that its service can be reached"
            ) from None
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

    def _frozen(self) -> ReadOnlyCredentials:
        """Return access key, secret key and token of one moment: a refresh in between would mix two sets."""
        expire = isinstance(self._credentials, RefreshableCredentials)
        if not expire or not self._credentials.refresh_needed():
            return self._credentials.get_frozen_credentials()
        seconds = min(CHAIN_SECONDS, time_limit.seconds_left())
        return _chain_calls.run(self._credentials.get_frozen_credentials, seconds)
