"""Where models come from: pinning a reference to an identity, reading its facts, fetching its files."""

from enginefarm.contract.model.resolved_files import ModelFile, ResolvedFiles, ResolvedModel
from models.sources.auxiliary import AuxiliarySource
from models.sources.bucket_source import BucketSource
from models.sources.digest_cache import DigestCache, FileStamp, MemoryDigestCache
from models.sources.dispatch import Sources
from models.sources.folder_source import FileSource
from models.sources.hub.auxiliary import HubAuxiliarySource
from models.sources.hub.model_source import HubSource
from models.sources.protocol import Source

__all__ = [
    "AuxiliarySource",
    "BucketSource",
    "DigestCache",
    "FileSource",
    "FileStamp",
    "HubAuxiliarySource",
    "HubSource",
    "MemoryDigestCache",
    "ModelFile",
    "ResolvedFiles",
    "ResolvedModel",
    "Source",
    "Sources",
]
