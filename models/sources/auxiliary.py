"""What is read beside a model: data sets that a quantisation is calibrated on, and second models such as draft heads.

Data are read by libraries that run a Python file that they find there, so only data are ever copied; of a second model,
only the files that a program opens by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.manifest import Manifest
from enginefarm.contract.model_reference import BucketReference, FileReference, HubReference, ModelReference, parse
from enginefarm.contract.resolved_files import ModelFile, ResolvedFiles
from models.sources.auxiliary_config import SecondSettings
from models.sources.auxiliary_selection import PLAIN_DATA, Selection
from models.sources.confined_folders import Folders
from models.sources.digest_cache import DigestCache
from models.sources.hub.auxiliary import HubDataSource
from models.sources.rejection import refusal


class DataSource:
    """Resolves and fetches `file:` folders below `roots`, and repositories of `hub`.

    `digests` knows what was hashed before.
    """

    def __init__(self, roots: Sequence[Path], digests: DigestCache, hub: HubDataSource | None = None) -> None:
        self._roots = tuple(roots)
        self._digests = digests
        self._hub = hub
        self._settings = SecondSettings(self.fetch)

    def resolve(self, reference: ModelReference, selection: Selection = PLAIN_DATA) -> ResolvedFiles:
        """
        Raises:
            ModelUnavailable: missing, outside the roots, too large, or without the files that count.
            SourceUnavailable: the hub does not answer.
        """
        match reference:
            case HubReference() if self._hub:
                return self._hub.resolve(reference, selection)
            case FileReference():
                return self._resolve_folder(reference, selection)
            case HubReference() | BucketReference():
                raise _unknown(reference, selection)

    def _resolve_folder(self, folder: FileReference, selection: Selection) -> ResolvedFiles:
        folders = Folders(self._roots, self._digests, selection.of_folder)
        entries = folders.entries(folder, folders.look(folder))
        return ResolvedFiles(
            reference=str(folder),
            identity={"source": "files", "digest": Manifest.of(entries).digest},
            files=tuple(ModelFile(path=entry.path, size=entry.size, digest=entry.digest) for entry in entries),
        )

    def settings(self, model: ResolvedFiles) -> Mapping[str, Any]:
        """What a second model says of itself. Raises as `resolve`."""
        return self._settings.of(model)

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
            raise TypeError(f"{reference} is neither a folder nor of a hub")
        folders = Folders(self._roots, self._digests, PLAIN_DATA.of_folder)
        folder = folders.folder(reference)
        for file in data.files:
            folders.copy(reference, folder, file, destination / file.path)


def _unknown(reference: ModelReference, selection: Selection) -> ModelUnavailable:
    what = "calibration data are" if selection.repository == "dataset" else "what is read beside a model is"
    return refusal(
        reference,
        "data_source_unknown",
        f"{what} read from a hub and from folders of the farm's machines",
        expected=selection.expected,
        remedy="put a copy below one of the farm's model roots",
    )
