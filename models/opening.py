"""Open the store, the model sources and the cache of inputs that the settings describe."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.sharing.cache_folder import cache_folder
from models.catalogue.database import Database
from models.outbound.certificates import require_certificates
from models.settings import Settings
from models.sources import AuxiliarySource, BucketSource, FileSource, HubAuxiliarySource, HubSource, Sources
from models.sources.database_digest_cache import DatabaseDigestCache
from models.sources.hub.http_client import PUBLIC_HUB
from models.sources.trust import Trust
from models.store import S3Settings, Store, open_store_url
from models.store.retries import RetryingPool
from models.store.s3_clients import open_minio
from models.store.s3_credentials import S3Credentials

log = logging.getLogger(__name__)

_WORKS_WITHOUT = (
    "inputs are fetched again for each stage. ENGINEFARM_WORKER_CACHE names another folder; with "
    "ENGINEFARM_WORKER_CACHE=off the worker uses none"
)


def open_store(settings: Settings, *, link_secret: bytes) -> Store:
    """Return the store that ENGINEFARM_STORE_URL names. It is neither connected to nor created.

    Raises:
        ValueError: the settings do not describe a store, or no keys for it are set or found.
    """
    if urlsplit(settings.store_url).scheme != "s3":
        return open_store_url(settings.store_url, s3=None, link_secret=link_secret)
    if settings.s3_endpoint is None:
        # No default: the bucket may be on any S3 server, and AWS would be a guess.
        raise ValueError("ENGINEFARM_STORE_URL is an S3 bucket, so set ENGINEFARM_S3_ENDPOINT too")
    public_endpoint = None
    if settings.s3_public_endpoint is not None:
        public_endpoint = str(settings.s3_public_endpoint)
    access_key, secret_key = _keys(settings, "s3")
    s3 = _s3_settings(
        "ENGINEFARM_S3",
        endpoint=str(settings.s3_endpoint),
        region=settings.s3_region,
        access_key=access_key,
        secret_key=secret_key,
        public_endpoint=public_endpoint,
        addressing=settings.s3_addressing,
    )
    return open_store_url(settings.store_url, s3=s3, link_secret=link_secret)


def worker_cache_folder(settings: Settings) -> Path | None:
    """The folder of the cache; None if the worker uses none."""
    if settings.worker_cache == "off":
        return None
    # The folder of pulls, so that a host has one cache.
    return settings.worker_cache or cache_folder(os.environ)


def open_cache(settings: Settings) -> Cache | None:
    """The cache of this host's workers; None if the worker uses none."""
    folder = worker_cache_folder(settings)
    if folder is None:
        return None
    return Cache(folder, limit=settings.worker_cache_bytes, use_without=_WORKS_WITHOUT)


def warn_of_missing_roots(settings: Settings) -> None:
    """Log which model roots cannot be read here. Other models need no root, and a folder may be mounted later."""
    for root in settings.model_roots:
        if not os.access(f"{root}/.", os.R_OK | os.X_OK):
            log.warning(
                "ENGINEFARM_MODEL_ROOTS: %s is no folder that this user can read: `file:` models below it are refused "
                "until it is", root,
            )  # fmt: skip


def open_sources(settings: Settings, database: Database) -> Sources:
    """Return the sources of `hf:`, `file:` and, with ENGINEFARM_MODELS_S3_ENDPOINT, `s3:` models.

    Raises:
        ValueError: ENGINEFARM_MODELS_S3_ENDPOINT has a path, its region is none, only one of the two keys for `s3:`
            models is set, the standard chain has no keys, or a variable for certificates names none.
    """
    require_certificates(os.environ)
    trust = Trust(settings.trusted_models)
    bucket = None
    if settings.models_s3_endpoint is not None:
        access_key, secret_key = _keys(settings, "models_s3")
        s3 = _s3_settings(
            "ENGINEFARM_MODELS_S3",
            endpoint=str(settings.models_s3_endpoint),
            access_key=access_key,
            secret_key=secret_key,
            region=settings.models_s3_region or settings.s3_region,
            addressing=settings.models_s3_addressing,
        )
        # Public buckets need no keys; a private one answers AccessDenied, which the source explains. The chain is used
        # only if the operator says so: otherwise every submitter could read what the farm's own role may read.
        credentials = None
        if access_key is not None or settings.models_s3_standard_chain:
            credentials = S3Credentials(access_key, secret_key)
        # A submit waits for the listing: retry as long as the SDK's own five tries took, not as long as an upload. As
        # many connections as the API has threads for buckets.
        pool = RetryingPool(patience=5, timeout=(5, 60), connections=32)
        server = urlsplit(s3.endpoint).netloc
        bucket = BucketSource(open_minio(s3, credentials, pool), server=server, trust=trust)
    hub_endpoint = str(settings.hf_endpoint or PUBLIC_HUB)
    # Of the settings alone: the library's own settings may name the token of whoever logged in on this machine.
    hub_token = _revealed(settings.hf_token)
    digests = DatabaseDigestCache(database)
    hub_auxiliary = HubAuxiliarySource(hub_endpoint, hub_token, redirect_networks=settings.hf_redirect_networks)
    return Sources(
        hub=HubSource(hub_endpoint, hub_token, trust=trust, redirect_networks=settings.hf_redirect_networks),
        files=FileSource(settings.model_roots, digests, trust=trust),
        auxiliary=AuxiliarySource(settings.model_roots, digests, hub_auxiliary),
        bucket=bucket,
    )


def _s3_settings(prefix: str, **values: Any) -> S3Settings:
    """Return the description of the S3 server whose settings begin with `prefix`.

    Raises:
        ValueError: one of them is not valid; the text names them.
    """
    try:
        return S3Settings(**values)
    except ValueError as error:
        raise ValueError(f"check {prefix}_ENDPOINT and {prefix}_REGION: {error}") from None


def _keys(settings: Settings, prefix: str) -> tuple[str | None, str | None]:
    """Return (access key, secret key), or (None, None) for the standard chain of AWS clients.

    Raises:
        ValueError: only one of the two is set.
    """
    # By prefix, so that the text can name the settings as the operator wrote them.
    access_key = _revealed(getattr(settings, f"{prefix}_access_key"))
    secret_key = _revealed(getattr(settings, f"{prefix}_secret_key"))
    if (access_key is None) != (secret_key is None):
        name = f"ENGINEFARM_{prefix.upper()}"
        # One key alone is a mistake: without this the chain's keys would sign, for another account.
        raise ValueError(f"set both {name}_ACCESS_KEY and {name}_SECRET_KEY, or neither: only one of them is set")
    return access_key, secret_key


def _revealed(secret: SecretStr | None) -> str | None:
    """Return the text of a secret; None if it is unset or empty, as Compose passes an unset variable on."""
    if secret is None:
        return None
    return secret.get_secret_value() or None
