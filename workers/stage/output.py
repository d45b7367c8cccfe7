"""The checked output of a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enginefarm.contract.digest import Digest
from enginefarm.contract.manifest import Manifest
from enginefarm.contract.serving import Serving


@dataclass(frozen=True)
class StageOutput:
    """The checked output of a stage. `rewritten`: digests of files whose damaged blobs this attempt replaced."""

    manifest: Manifest
    facts: dict[str, Any]
    serving: Serving | None = None
    rewritten: frozenset[Digest] = frozenset()
