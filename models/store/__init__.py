"""The content-addressed object store: one interface, implemented by a folder and by an S3 bucket."""

from models.store.directory import DirectoryStore
from models.store.links import Links
from models.store.opening import open_store_url
from models.store.protocol import Store
from models.store.s3 import S3Store
from models.store.s3_settings import S3Settings

__all__ = ["DirectoryStore", "Links", "S3Settings", "S3Store", "Store", "open_store_url"]
