"""Open the store and the model sources that the settings describe."""

from __future__ import annotations

import logging
from urllib.parse import urlsplit

from huggingface_hub import constants
from minio import Minio
from pydantic import AnyHttpUrl, SecretStr

from models.catalogue.database import Database
from models.settings import Settings
from models.sources import AuxiliarySource, BucketSource, FileSource, HubAuxiliarySource, HubSource, Sources
from models.sources.database_digest_cache import DatabaseDigestCache
from models.sources.trust import Trust
from models.store import S3Settings, Store, open_store_url
from models.store.retries import RetryingPool
from models.store.s3_clients import open_minio
from models.store.s3_credentials import open_provider

_LOG = logging.getLogger(__name__)


def open_store(settings: Settings, *, link_secret: bytes) -> Store:
    """Return the store that ENGINEFARM_STORE_URL names. It is neither connected to nor created.

    Raises:
        ValueError: the settings do not describe a store, or no keys for it are set or found.
    """
    if urlsplit(settings.store_url).scheme != "s3":
        return open_store_url(settings.store_url, s3=None, link_secret=link_secret)
    if settings.s3_endpoint is None:
        raise ValueError("ENGINEFARM_STORE_URL is an S3 bucket, so set ENGINEFARM_S3_ENDPOINT too")
    access_key, secret_key = _keys(settings, "s3")
    s3 = S3Settings(
        endpoint=str(settings.s3_endpoint),
        region=settings.s3_region,
        access_key=access_key,
        secret_key=secret_key,
        public_endpoint=str(settings.s3_public_endpoint) if settings.s3_public_endpoint else None,
        addressing=settings.s3_addressing,
    )
    return open_store_url(settings.store_url, s3=s3, link_secret=link_secret)


def open_sources(settings: Settings, database: Database) -> Sources:
    """Return the sources of `hf:`, `file:` and, with ENGINEFARM_MODELS_S3_ENDPOINT, `s3:` models.

    Raises:
        ValueError: only one of the two keys for `s3:` models is set.
    """
    hub_endpoint = str(settings.hf_endpoint or constants.ENDPOINT)
    hub_token = _revealed(settings.hf_token)
    trust = Trust(settings.trusted_models)
    digests = DatabaseDigestCache(database)
    bucket = None
    if settings.models_s3_endpoint is not None:
        bucket = BucketSource(_open_models_client(settings.models_s3_endpoint, settings), trust=trust)
    return Sources(
        hub=HubSource(hub_endpoint, hub_token, trust=trust),
        files=FileSource(settings.model_roots, digests, trust=trust),
        auxiliary=AuxiliarySource(settings.model_roots, digests, HubAuxiliarySource(hub_endpoint, hub_token)),
        bucket=bucket,
    )


def _open_models_client(endpoint: AnyHttpUrl, settings: Settings) -> Minio:
    access_key, secret_key = _keys(settings, "models_s3")
    s3 = S3Settings(str(endpoint), access_key, secret_key, settings.s3_region)
    try:
        provider = open_provider(access_key, secret_key)
    except ValueError as error:
        # Public buckets need no keys; a private one answers AccessDenied, which the source explains.
        _LOG.warning("s3: models are read without credentials, from public buckets only: %s", error)
        provider = None
    # A submit waits for the listing: retry as long as the SDK's own five tries took, not as long as an upload.
    return open_minio(s3, provider, RetryingPool(patience=5, timeout=(5, 60)))


def _keys(settings: Settings, prefix: str) -> tuple[str | None, str | None]:
    """Return (access key, secret key), or (None, None) for the standard chain of AWS clients.

    Raises:
        ValueError: only one of the two is set.
    """
    access_key = _revealed(getattr(settings, f"{prefix}_access_key"))
    secret_key = _revealed(getattr(settings, f"{prefix}_secret_key"))
    if (access_key is None) != (secret_key is None):
        name = f"ENGINEFARM_{prefix.upper()}"
        raise ValueError(f"set both {name}_ACCESS_KEY and {name}_SECRET_KEY, or neither: only one of them is set")
    return access_key, secret_key


def _revealed(secret: SecretStr | None) -> str | None:
    """Return the text of a secret; None if it is unset or empty, as Compose passes an unset variable on."""
    if secret is None:
        return None
    return secret.get_secret_value() or None
