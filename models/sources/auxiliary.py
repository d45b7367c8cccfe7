"""Resolve and fetch auxiliary inputs: calibration data, and second models such as draft heads.

The libraries that read calibration data run a Python file if they find one among the data, so only data files are
copied; of a second model, only the files that a program opens by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.model.reference import BucketReference, FileReference, HubReference, ModelReference, parse
from enginefarm.contract.model.resolved_files import ResolvedFiles
from models.sources.auxiliary_config import AuxiliaryConfigs
from models.sources.confined_folders import ConfinedFolders, Listing
from models.sources.digest_cache import DigestCache
from models.sources.hub.auxiliary import HubAuxiliarySource
from models.sources.inspection.inspector import Inspector
from models.sources.inspection.selection import PLAIN_DATA, Selection
from models.sources.rejection import refusal


class AuxiliarySource:
    """Auxiliary inputs in `file:` folders below `roots`, and in repositories of `hub`.

    Args:
        digests: digests of files that were hashed before.
        hub: None if this farm reads none from a hub.
    """

    def __init__(self, roots: Sequence[Path], digests: DigestCache, hub: HubAuxiliarySource | None = None) -> None:
        self._roots = tuple(roots)
        self._digests = digests
        self._hub = hub
        self._inspector = Inspector()
        self._inspected: dict[Path, Listing] = {}
        self._configs = AuxiliaryConfigs(self.fetch)

    def resolve_files(self, reference: ModelReference, selection: Selection = PLAIN_DATA) -> ResolvedFiles:
        """Pin the reference and list the selected files.

        Raises:
            ModelUnavailable: missing, outside the roots, too large, or without the selected files.
            SourceUnavailable: the hub does not answer.
        """
        match reference:
            case HubReference() if self._hub:
                return self._hub.resolve_files(reference, selection)
            case FileReference():
                folders = ConfinedFolders(self._roots, self._digests, selection.of_folder)
                listing = folders.scan(reference)
                # Digests are remembered, so every submit comes here; an unchanged folder is not inspected again.
                if self._inspected.get(listing.folder) != listing:
                    sizes = {name: stamp.size for name, stamp in listing.stamps}
                    read = partial(folders.read_start, reference, listing.folder)
                    self._inspector.read_auxiliary(reference, sizes, read, selection.repository)
                    self._inspected[listing.folder] = listing
                identity, files = folders.identify(reference, listing)
                return ResolvedFiles(reference=str(reference), identity=identity, files=files)
            case HubReference() | BucketReference():
                subject = "calibration data are"
                if selection.repository != "dataset":
                    subject = "what is read beside a model is"
                raise refusal(
                    reference,
                    "data_source_unknown",
                    f"{subject} read from a hub and from folders of the farm's machines",
                    expected=selection.expected,
                    remedy="put a copy below one of the farm's model roots",
                )

    def config(self, model: ResolvedFiles) -> Mapping[str, Any]:
        """Return the JSON config of a second model; empty if it has none. Raises as `resolve`."""
        return self._configs.read(model)

    def fetch(self, files: ResolvedFiles, destination: Path, watch: Watch = ignore_progress) -> None:
        """Copy the files into `destination`, verified.

        Raises:
            ModelUnavailable: the files changed since they were resolved.
            SourceUnavailable: the hub does not answer.
            IntegrityError: the hub sent other bytes than it listed.
        """
        reference = parse(files.reference)
        if isinstance(reference, HubReference) and self._hub:
            self._hub.fetch(files, destination, watch)
            return
        if not isinstance(reference, FileReference):
            raise TypeError(f"{reference} is neither a folder nor in a hub")
        # The files are known by now, so it does not matter which selection is given; nothing is selected again.
        folders = ConfinedFolders(self._roots, self._digests, PLAIN_DATA.of_folder)
        folder = folders.find_folder(reference)
        for file in files.files:
            folders.copy(reference, folder, file, destination / file.path, watch)
