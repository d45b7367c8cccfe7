"""Find the keys that sign S3 requests: explicit ones, or the standard chain of AWS clients.

botocore walks the chain and refreshes what expires: environment variables, the shared config and credentials files with
their profile, a web identity token (IRSA in Kubernetes), a container's role, an instance's role. So a farm on a cloud
needs no static secret. Both S3 clients of the store sign with what this module returns.
"""

from __future__ import annotations

import os

from botocore.exceptions import BotoCoreError
from botocore.session import Session
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider, StaticProvider

from enginefarm.contract.errors import StoreUnavailable
from models.store.s3_errors import BOTOCORE_ERRORS

_PLACES = (
    "the environment (AWS_ACCESS_KEY_ID), the shared files (~/.aws/credentials and ~/.aws/config, AWS_PROFILE), a web "
    "identity (AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN), the container's role and the instance's role"
)


class CredentialChain(Provider):
    """Keys of the standard chain, for the minio SDK.

    Raises:
        ValueError: the chain finds no keys, or cannot be read. The text says where it looked and repeats no value.
    """

    def __init__(self) -> None:
        self.session = Session()
        try:
            credentials = self.session.get_credentials()
        except BotoCoreError as error:
            # The original text may quote a file or what a credential process printed.
            raise ValueError(f"the S3 credentials cannot be read ({type(error).__name__}); checked {_PLACES}") from None
        if credentials is None:
            raise ValueError(f"no S3 credentials are set and none were found; checked {_PLACES}")
        self._credentials = credentials

    def retrieve(self) -> Credentials:
        """Return keys that are valid now; temporary ones are refreshed some minutes before they expire.

        Raises:
            StoreUnavailable: the service that issues them does not answer or refuses.
        """
        try:
            frozen = self._credentials.get_frozen_credentials()
        except (*BOTOCORE_ERRORS, RuntimeError) as error:  # the last for refreshed keys that have expired already
            cause = type(error).__name__
            raise StoreUnavailable(
                f"the farm's S3 credentials ({self._credentials.method}) cannot be refreshed: {cause}; "
                "check the role, its trust policy, and that its service can be reached"
            ) from None
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def open_provider(access_key: str | None, secret_key: str | None) -> Provider:
    """Return a provider of the explicit keys, or of the standard chain if both are None.

    Raises:
        ValueError: as `CredentialChain`.
    """
    if access_key is None or secret_key is None:
        return CredentialChain()
    return StaticProvider(access_key, secret_key)


def botocore_session(provider: Provider) -> Session:
    """Return a botocore session that signs with the keys of `provider`.

    The session of the chain is shared, so that keys are refreshed once for both clients.
    """
    if isinstance(provider, CredentialChain):
        return provider.session
    # With explicit keys this machine's AWS files must not matter: a mistyped AWS_PROFILE alone would fail every upload.
    session = Session(
        session_vars={
            "profile": (None, None, None, None),
            "config_file": (None, None, os.devnull, None),
            "credentials_file": (None, None, os.devnull, None),
        }
    )
    keys = provider.retrieve()
    session.set_credentials(keys.access_key, keys.secret_key)
    return session
