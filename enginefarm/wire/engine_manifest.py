"""The manifest of an engine, made from the list of files that a farm answers with."""

from __future__ import annotations

import rfc8785
from pydantic import ValidationError

from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.wire.bodies import Engine


def manifest_of(engine: Engine) -> Manifest:
    """Return the manifest of `engine.contents`, whose digest is `engine.manifest`.

    A farm is not trusted to agree with itself: without this check, a node would verify every file against a list
    that nobody signed.

    Raises:
        IntegrityError: the files make no manifest (a path leads out, appears twice, or has an impossible size), or
            the manifest has another digest than the farm states.
    """
    try:
        # Copied field by field: the body adds a URL to each file, which is no part of the manifest's digest.
        manifest = Manifest.of(FileEntry(path=f.path, digest=f.digest, size=f.size) for f in engine.contents)
        digest = manifest.digest
    except ValidationError as error:
        raise IntegrityError(f"engine {engine.key}: its files make no manifest: {error.errors()[0]['msg']}") from None
    except rfc8785.IntegerDomainError as error:
        raise IntegrityError(f"engine {engine.key}: its files make no manifest: {error}") from None
    if digest != engine.manifest:
        raise IntegrityError(
            f"engine {engine.key}: the farm says its manifest is {engine.manifest}, but its files make {digest}"
        )
    return manifest
