"""Opening the store that a URL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.store import DirectoryStore, S3Settings, S3Store, open_store_url

SECRET = b"a secret that signs links"
S3 = S3Settings("http://127.0.0.1:9000", access_key="a", secret_key="b")


def test_a_file_url_opens_a_folder_and_creates_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    store = open_store_url(f"file://{str(folder).replace(' ', '%20')}", s3=None, link_secret=SECRET)
    assert isinstance(store, DirectoryStore)
    assert not folder.exists()
    store.prepare()
    assert folder.is_dir()


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://my-bucket.1/a/b_c/"])
def test_an_s3_url_opens_a_bucket(url: str) -> None:
    assert isinstance(open_store_url(url, s3=S3, link_secret=SECRET), S3Store)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/srv/store", "the scheme .. is not known"),
        ("http://host/bucket", "the scheme .http. is not known"),
        ("file:srv", "absolute path"),
        ("file://host/srv", "absolute path"),
        ("file:///srv/../etc", "absolute path"),
        ("file:///srv/%00", "control characters"),
        ("file:///srv/caf%e9", "a path in UTF-8"),
        ("s3://", "plain names"),
        ("s3://key:5eCr3t@bucket/prefix", "plain names"),
        ("s3://bucket/a/../b", "plain names"),
        ("s3://bucket/a b", "plain names"),
    ],
)
def test_any_other_url_is_refused_without_repeating_it(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        open_store_url(url, s3=S3, link_secret=SECRET)
    assert "5eCr3t" not in str(caught.value)


def test_a_bucket_without_an_endpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an endpoint"):
        open_store_url("s3://bucket", s3=None, link_secret=SECRET)
