"""Data sets that a quantisation is calibrated on: folders of the farm's own machines, and repositories of a hub.

They are read by libraries that run a Python file that they find there, so only data are ever copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from enginefarm.errors import ModelUnavailable
from enginefarm.manifest import Manifest
from enginefarm.model import BucketReference, FileReference, HubReference, ModelReference, parse
from models.sources.digests import DigestCache
from models.sources.folders import Folders
from models.sources.hub_datasets import HubDataSource
from models.sources.plain_data import EXPECTED, EXPECTED_OF_HUB, is_data
from models.sources.refusal import refusal
from models.sources.resolved import ModelFile, ResolvedFiles


class DataSource:
    """Resolves and fetches `file:` data sets below `roots`, and those of `hub`.

    `digests` knows what was hashed before.
    """

    def __init__(self, roots: Sequence[Path], digests: DigestCache, hub: HubDataSource | None = None) -> None:
        self._folders = Folders(roots, digests, _select)
        self._hub = hub

    def resolve(self, reference: ModelReference) -> ResolvedFiles:
        """
        Raises:
            ModelUnavailable: missing, outside the roots, too large, or without data.
            SourceUnavailable: the hub does not answer.
        """
        match reference:
            case HubReference() if self._hub:
                return self._hub.resolve(reference)
            case FileReference():
                return self._resolve_folder(reference)
            case HubReference() | BucketReference():
                raise _unknown(reference)

    def _resolve_folder(self, folder: FileReference) -> ResolvedFiles:
        entries = self._folders.entries(folder, self._folders.look(folder))
        return ResolvedFiles(
            reference=str(folder),
            identity={"source": "files", "digest": Manifest.of(entries).digest},
            files=tuple(ModelFile(path=entry.path, size=entry.size, digest=entry.digest) for entry in entries),
        )

    def fetch(self, data: ResolvedFiles, destination: Path) -> None:
        """
        Raises:
            ModelUnavailable: the data are no longer what they were when they were resolved.
        """
        reference = parse(data.reference)
        if isinstance(reference, HubReference) and self._hub:
            self._hub.fetch(data, destination)
            return
        if not isinstance(reference, FileReference):
            raise _unknown(reference)
        folder = self._folders.folder(reference)
        for file in data.files:
            self._folders.copy(reference, folder, file, destination / file.path)


def _unknown(reference: ModelReference) -> ModelUnavailable:
    return refusal(
        reference,
        "data_source_unknown",
        "calibration data are read from a hub and from folders of the farm's machines",
        expected=f"{EXPECTED}, or {EXPECTED_OF_HUB}",
        remedy="put a copy of the data set below one of the farm's model roots",
    )


def _select(reference: FileReference, names: Iterable[str]) -> tuple[str, ...]:
    if found := tuple(sorted(name for name in names if is_data(name))):
        return found
    raise refusal(reference, "data_missing", "there are no data at its top", expected=EXPECTED)
