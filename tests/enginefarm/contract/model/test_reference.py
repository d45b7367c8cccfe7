"""Reading model references."""

from __future__ import annotations

import pytest

from enginefarm.contract.model.reference import (
    ACCEPTED,
    BucketReference,
    FileReference,
    HubReference,
    ModelReference,
    parse,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("hf:org/name", HubReference("org/name")),
        ("hf:meta-llama/Meta-Llama-3.1-8B_x@v1.0", HubReference("meta-llama/Meta-Llama-3.1-8B_x", "v1.0")),
        ("hf:org/name@refs/pr/3", HubReference("org/name", "refs/pr/3")),
        ("hf:org/name@" + COMMIT, HubReference("org/name", COMMIT)),
        ("file:/models/llama", FileReference("/models/llama")),
        ("file:/models/llama 3/", FileReference("/models/llama 3")),
        ("s3://bucket/llama", BucketReference("bucket", "llama")),
        ("s3://my.bucket-1/a/b/", BucketReference("my.bucket-1", "a/b")),
    ],
)
def test_a_reference_of_an_accepted_form_is_parsed(text: str, reference: ModelReference) -> None:
    assert parse(text) == reference
    assert parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("org/name", "has no scheme"),
        ("ftp:org/name", "unknown scheme 'ftp'"),
        ("HF:org/name", "unknown scheme 'HF'"),
        ("hf:", "organization and a name"),
        ("hf:gpt2", "organization and a name"),
        ("hf:/name", "organization and a name"),
        ("hf:org/", "organization and a name"),
        ("hf:org/na me", "bad name 'na me'"),
        ("hf:org/..", "bad name"),
        ("hf:../etc", "bad name '..'"),
        ("hf:org/a..b", "bad name"),
        ("hf:org/a--b", "bad name"),
        ("hf:org/name.git", "bad name"),
        ("hf:org/name/more", "bad name"),
        ("hf:org/-name", "bad name"),
        ("hf:org/" + "n" * 97, "bad name"),
        ("hf:org/näme", "bad name"),
        ("hf:org/name@", "bad revision ''"),
        ("hf:org/name@a..b", "bad revision"),
        ("hf:org/name@/main", "bad revision"),
        ("hf:org/name@a?b", "bad revision"),
        ("hf:org/name@a@b", "bad revision"),
        ("file:models/llama", "absolute path"),
        ("file://models/llama", "absolute path"),
        ("file:", "absolute path"),
        ("file:/", "names no folder"),
        ("file:/models/../etc", "'..'"),
        ("file:/models/./x", "'..', '.'"),
        ("file:/models//x", "'//'"),
        ("s3:bucket/prefix", "bad bucket name"),
        ("s3://Bucket/prefix", "bad bucket name"),
        ("s3:///prefix", "bad bucket name"),
        ("s3://a..b/prefix", "bad bucket name"),
        ("s3://bucket", "names no folder"),
        ("s3://bucket/", "names no folder"),
        ("s3://bucket/a/../b", "'..'"),
        ("file:/models/a\x00b", "control character"),
        ("hf:org/name\n", "control character"),
        (" hf:org/name", "white space"),
    ],
)
def test_a_malformed_reference_is_refused_with_the_reason_and_the_accepted_forms(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="accepted are") as caught:
        parse(text)
    assert why in str(caught.value)
    assert ACCEPTED in str(caught.value)


def test_a_long_reference_is_refused_without_repeating_it() -> None:
    with pytest.raises(ValueError, match="4101 characters"):
        parse("hf:o/" + "x" * 4096)


def test_only_a_full_hash_is_a_commit() -> None:
    assert HubReference("org/name", COMMIT).commit == COMMIT
    assert HubReference("org/name", COMMIT[:7]).commit is None
    assert HubReference("org/name").commit is None
