"""Where models come from: pinning a reference to an identity, reading its facts, fetching its files."""

from enginefarm.contract.resolved_files import ModelFile, ResolvedFiles, ResolvedModel
from models.sources.bucket import BucketSource
from models.sources.datasets import DataSource
from models.sources.digests import DigestCache, FileStamp, MemoryDigestCache
from models.sources.files import FileSource
from models.sources.hub.datasets import HubDataSource
from models.sources.hub.source import HubSource
from models.sources.source import Source
from models.sources.sources import Sources

__all__ = [
    "BucketSource",
    "DataSource",
    "DigestCache",
    "FileSource",
    "FileStamp",
    "HubDataSource",
    "HubSource",
    "MemoryDigestCache",
    "ModelFile",
    "ResolvedFiles",
    "ResolvedModel",
    "Source",
    "Sources",
]
