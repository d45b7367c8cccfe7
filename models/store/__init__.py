"""The object store: content-addressed blobs in a folder or in an S3 bucket."""

from models.store.directory import DirectoryStore
from models.store.opening import open_store_url
from models.store.protocol import Store, object_name
from models.store.s3 import S3Settings, S3Store

__all__ = ["DirectoryStore", "S3Settings", "S3Store", "Store", "object_name", "open_store_url"]
