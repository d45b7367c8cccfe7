"""References to models and data sets: `hf:org/name[@revision]`, `file:/absolute/path`, `s3://bucket/prefix`.

A reference states where a model is, not which bytes it has: a branch moves and a folder changes. The control plane
resolves it to an immutable identity before it makes a key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

ACCEPTED = "hf:org/name[@revision], file:/absolute/path or s3://bucket/prefix"

_MAX_LENGTH = 1024
# The hub's own rules for names and git's for revisions; a name that they refuse could also escape a path on disk.
_HUB_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./+-]{0,253}[A-Za-z0-9_+-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class HubReference:
    """A repository of a Hugging Face hub, at a branch, a tag or a commit."""

    repo: str  # org/name
    revision: str | None = None  # None: the repository's default branch

    @property
    def commit(self) -> str | None:
        """The revision if it is a full commit, which never moves."""
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.revision
        return None

    def __str__(self) -> str:
        if self.revision:
            return f"hf:{self.repo}@{self.revision}"
        return f"hf:{self.repo}"


@dataclass(frozen=True)
class FileReference:
    """A folder that the API and the workers see at the same absolute path."""

    path: str

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True)
class BucketReference:
    """The objects directly below a prefix of an S3 bucket."""

    bucket: str
    prefix: str  # without a leading or trailing '/'

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


ModelReference: TypeAlias = HubReference | FileReference | BucketReference


def parse(text: str) -> ModelReference:
    """Parse a reference. A trailing '/' of a folder or a prefix is dropped, because it changes no meaning.

    Raises:
        ValueError: `text` is no reference; the error says why, and which forms are accepted.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"a model reference of {len(text)} characters: expected at most {_MAX_LENGTH}")
    # A reference is printed in lists and logs, where control characters could forge a line.
    if any(not c.isprintable() for c in text) or text != text.strip():
        raise _invalid(text, "has a control character, or white space around it")
    if not text:
        raise _invalid(text, "is empty")
    scheme, colon, location = text.partition(":")
    if not colon:
        raise _invalid(text, "has no scheme")
    match scheme:
        case "hf":
            return _parse_hub(text, location)
        case "file":
            # file://host/path would name another machine.
            if not location.startswith("/") or location.startswith("//"):
                raise _invalid(text, "needs an absolute path with one '/' in front, as in file:/models/llama")
            return FileReference("/" + _plain_path(text, location.removeprefix("/")))
        case "s3":
            bucket, _, prefix = location.removeprefix("//").partition("/")
            # S3 itself refuses a bucket name with two dots in a row.
            if not location.startswith("//") or not _BUCKET.fullmatch(bucket) or ".." in bucket:
                raise _invalid(text, f"has the bad bucket name {bucket!r}, expected as in s3://bucket/prefix")
            return BucketReference(bucket, _plain_path(text, prefix))
        case "":
            raise _invalid(text, "has no scheme")
        case _:
            raise _invalid(text, f"has the unknown scheme {scheme!r}")


def _parse_hub(text: str, location: str) -> HubReference:
    repo, at, revision = location.partition("@")
    org, slash, name = repo.partition("/")
    if not (org and slash and name):
        raise _invalid(text, "needs an organization and a name, as in hf:org/name")
    for part in (org, name):
        if not _HUB_NAME.fullmatch(part) or "--" in part or ".." in part or part.endswith(".git"):
            raise _invalid(
                text,
                f"has the bad name {part!r}: at most 96 letters, digits, '.', '-' and '_', "
                "with none of '..', '--', '.git' at the end, or '.' and '-' at either end",
            )
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision):
        raise _invalid(text, f"has the bad revision {revision!r}: expected a branch, a tag or a commit after '@'")
    return HubReference(repo, revision or None)


def _plain_path(text: str, path: str) -> str:
    """Return `path` without a trailing '/', or refuse it unless it is names joined by single '/'."""
    path = path.removesuffix("/")
    if not path:
        raise _invalid(text, "names no folder")
    if any(part in {"", ".", ".."} for part in path.split("/")) or "\\" in path:
        raise _invalid(text, "has '..', '.', '//' or '\\' in its path")
    return path


def _invalid(text: str, why: str) -> ValueError:
    return ValueError(f"the model reference {text!r} {why}; accepted are {ACCEPTED}")
