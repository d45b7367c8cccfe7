"""An engine as an OCI artifact, which registry clients pull.

Every file is a layer: its bytes unchanged, its title the path. So the digests are the farm's own, and `oras pull`
restores the directory. The documents depend on the engine only, and so have the same bytes each time. The catalogue
keeps their digests: a change of their bytes needs a migration that empties `engines.registered_at`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from enginefarm.contract.digest import Digest, of_bytes
from enginefarm.contract.key import Key
from enginefarm.contract.manifest import FileEntry
from enginefarm.contract.platform import Platform

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"  # an image's, so that every client can read it
ARTIFACT = "application/vnd.enginefarm.engine.v1"
FILE = "application/vnd.enginefarm.file.v1"
TITLE = "org.opencontainers.image.title"

# The image specification names architectures as Go does.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class PackagedEngine:
    """What the artifact of an engine says about it."""

    key: Key
    model: str
    toolchain: str
    version: str
    manifest: Digest
    platform: Platform
    bound_to: Mapping[str, Any]
    created_at: datetime
    files: Sequence[FileEntry]


@dataclass(frozen=True)
class Artifact:
    """The two documents of an engine. Its files are blobs of the store."""

    key: Key
    repository: str
    manifest: bytes
    config: bytes

    @property
    def digest(self) -> Digest:
        return of_bytes(self.manifest)


def artifact(engine: PackagedEngine) -> Artifact:
    """The artifact's two documents, by the OCI image specification 1.1 (`artifactType`)."""
    diff_ids: list[str] = []
    layers: list[dict[str, Any]] = []
    for file in engine.files:
        # Layers are not compressed, so the digests of their contents are those of the blobs.
        diff_ids.append(file.digest)
        layers.append({"mediaType": FILE, "digest": file.digest, "size": file.size, "annotations": {TITLE: file.path}})
    config = _json(
        {
            "created": engine.created_at.isoformat(),
            "architecture": _ARCHITECTURES[engine.platform.arch],
            "os": engine.platform.os,
            "config": {"Labels": _labels(engine)},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": ARTIFACT,
        "config": {"mediaType": CONFIG, "digest": of_bytes(config), "size": len(config)},
        "layers": layers,
        "annotations": _labels(engine),
    }
    return Artifact(engine.key, repository(engine.model, engine.toolchain), _json(manifest), config)


def repository(model: str, toolchain: str) -> str:
    """The repository of a model's engines: `trtllm/meta-llama/meta-llama-3-8b-instruct`.

    The revision is not in it: a repository holds the engines of all revisions, as a tag each.
    """
    scheme, _, location = model.partition(":")
    path = location.partition("@")[0]
    if scheme != "hf":
        path = location.rstrip("/").rpartition("/")[2]  # the last folder only: the path of a folder is the farm's own
    # The distribution specification allows lower-case letters and digits, joined by separators, in a component.
    components: list[str] = []
    for name in (toolchain, *path.split("/")):
        component = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        if component:
            components.append(component)
    return "/".join(components)


def _labels(engine: PackagedEngine) -> dict[str, str]:
    labels = {
        "org.opencontainers.image.created": engine.created_at.isoformat(),
        TITLE: engine.model,
        "enginefarm.key": engine.key,
        "enginefarm.manifest": engine.manifest,
        "enginefarm.toolchain": f"{engine.toolchain} {engine.version}",
    }
    # Only what binds the engine: the other facts of the machine do not decide where it runs.
    for name, value in engine.bound_to.items():
        if value is not None:
            labels[f"enginefarm.platform.{name}"] = str(value)
    return labels


def _json(document: Mapping[str, Any]) -> bytes:
    # One spelling: clients name a document by the digest of its bytes, which are made again at each request.
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
