"""From settings to a store and to model sources: the one place that knows both."""

from __future__ import annotations

from urllib.parse import urlsplit

from huggingface_hub import constants
from minio import Minio
from pydantic import AnyHttpUrl, SecretStr

from models.catalogue.database import Database
from models.settings import Settings
from models.sources import BucketSource, DataSource, FileSource, HubDataSource, HubSource, Sources
from models.sources.database_digest_cache import CatalogueDigestCache
from models.sources.trust import Trust
from models.store import S3Settings, Store, open_store_url


def open_store(settings: Settings, *, link_secret: bytes) -> Store:
    """The store that ENGINEFARM_STORE_URL names.

    Raises:
        ValueError: the settings do not describe one.
    """
    s3 = None
    if urlsplit(settings.store_url).scheme == "s3":
        if missing := settings.required("s3_endpoint", "s3_access_key", "s3_secret_key"):
            raise ValueError(f"ENGINEFARM_STORE_URL is an S3 bucket, so set {', '.join(missing)} too")
        s3 = S3Settings(
            endpoint=str(settings.s3_endpoint),
            region=settings.s3_region,
            access_key=_revealed(settings.s3_access_key),
            secret_key=_revealed(settings.s3_secret_key),
            public_endpoint=str(settings.s3_public_endpoint) if settings.s3_public_endpoint else None,
            addressing=settings.s3_addressing,
        )
    return open_store_url(settings.store_url, s3=s3, link_secret=link_secret)


def open_sources(settings: Settings, database: Database) -> Sources:
    endpoint = settings.models_s3_endpoint
    trust, token = Trust(settings.trusted_models), _revealed(settings.hf_token) or None
    hub, digests = str(settings.hf_endpoint or constants.ENDPOINT), CatalogueDigestCache(database)
    return Sources(
        hub=HubSource(hub, token, trust=trust),
        files=FileSource(settings.model_roots, digests, trust=trust),
        data=DataSource(settings.model_roots, digests, HubDataSource(hub, token)),
        bucket=BucketSource(_client(endpoint, settings), trust=trust) if endpoint else None,
    )


def _client(endpoint: AnyHttpUrl, settings: Settings) -> Minio:
    return Minio(
        f"{endpoint.host}:{endpoint.port}",
        access_key=_revealed(settings.models_s3_access_key),
        secret_key=_revealed(settings.models_s3_secret_key),
        secure=endpoint.scheme == "https",
        region=settings.s3_region,
    )


def _revealed(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""
