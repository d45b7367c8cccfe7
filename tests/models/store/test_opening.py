"""From a URL to a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.store import DirectoryStore, S3Settings, S3Store, open_store_url

SECRET = b"a secret that signs links"
S3 = S3Settings("http://127.0.0.1:9000", access_key="a", secret_key="b")


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    store = open_store_url(f"file://{str(folder).replace(' ', '%20')}", s3=None, link_secret=SECRET)
    assert isinstance(store, DirectoryStore)
    assert not folder.exists()
    store.prepare()
    assert folder.is_dir()


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://my-bucket.1/a/b_c/"])
def test_a_bucket(url: str) -> None:
    assert isinstance(open_store_url(url, s3=S3, link_secret=SECRET), S3Store)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("/srv/store", "scheme is not known"),
        ("http://host/bucket", "'http' scheme is not known"),
        ("file:srv", "absolute path"),
        ("file://host/srv", "absolute path"),
        ("file:///srv/../etc", "absolute path"),
        ("s3://", "plain names"),
        ("s3://key:5eCr3t@bucket/prefix", "plain names"),
        ("s3://bucket/a/../b", "plain names"),
        ("s3://bucket/a b", "plain names"),
    ],
)
def test_anything_else_is_refused(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        open_store_url(url, s3=S3, link_secret=SECRET)
    assert "5eCr3t" not in str(caught.value)


def test_a_bucket_needs_a_server() -> None:
    with pytest.raises(ValueError, match="needs an endpoint"):
        open_store_url("s3://bucket", s3=None, link_secret=SECRET)
