"""Resolve and fetch `file:` models: folders of the farm's own machines.

A folder is identified by its content, so two copies of a model at two paths are one model. Hashing a large model takes
minutes, therefore digests are remembered by path, size, mtime and inode. The worker hashes again as it copies, and
refuses a file that differs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.reference import FileReference, parse
from enginefarm.contract.model.resolved_files import ResolvedModel
from models.caching import SingleFlight
from models.sources.confined_folders import ConfinedFolders, Listing
from models.sources.digest_cache import DigestCache
from models.sources.inspection.inspector import Inspector
from models.sources.inspection.model_files import select
from models.sources.inspection.weights import INDEXES
from models.sources.trust import NOBODY, Trust


class FileSource:
    """`file:` models below `roots`.

    Args:
        digests: digests of files that were hashed before.
        trust: the models whose own code is part of the model.
    """

    def __init__(self, roots: Sequence[Path], digests: DigestCache, *, trust: Trust = NOBODY) -> None:
        self._folders = ConfinedFolders(roots, digests, self._select)
        self._trust = trust
        self._inspector = Inspector()
        self._reading: SingleFlight[Listing, ResolvedModel] = SingleFlight()
        self._lock = threading.Lock()
        # One entry a folder, replaced by a newer listing. Unlike a hub's answer it needs no age: the listing tells.
        self._resolved: dict[Path, tuple[Listing, ResolvedModel]] = {}
        # The selected files by folder. Every submit selects, and an index may have 20 MB.
        self._selected: dict[Path, tuple[tuple[object, ...], tuple[str, ...]]] = {}

    def resolve_model(self, reference: FileReference) -> ResolvedModel:
        """See `Source.resolve_model`. The first call of a model hashes its files: minutes for a large model.

        Later calls read directory entries only, while the folder is unchanged.
        """
        listing = self._folders.scan(reference)
        model = self._unchanged(listing)
        if model is None:
            # Shared by listing and not by path: a submit after a rewrite must not get the files from before it.
            model = self._reading.run(listing, partial(self._read, reference, listing))
        # Another path may have led to the same folder.
        return model.model_copy(update={"reference": str(reference)})

    def cached_model(self, reference: FileReference) -> ResolvedModel | None:
        """See `Source.cached_model`."""
        model = self._unchanged(self._folders.scan(reference))
        if model is None:
            return None
        return model.model_copy(update={"reference": str(reference)})

    def fetch(self, model: ResolvedModel, destination: Path, watch: Watch = ignore_progress) -> None:
        """See `Source.fetch`."""
        reference = parse(model.reference)
        if not isinstance(reference, FileReference):
            raise TypeError(f"{reference} names no folder")
        folder = self._folders.find_folder(reference)
        for file in model.files:
            self._folders.copy(reference, folder, file, destination / file.path, watch)

    def _unchanged(self, listing: Listing) -> ResolvedModel | None:
        """Return the model that was resolved from an equal listing."""
        with self._lock:
            entry = self._resolved.get(listing.folder)
        if entry is None or entry[0] != listing:
            return None
        return entry[1]

    def _select(self, reference: FileReference, names: Iterable[str]) -> tuple[str, ...]:
        """Select files as `select` does; a folder with the same names and the same index has the same selection."""
        folder = self._folders.find_folder(reference)
        trusted = self._trust.allows(reference)
        names = tuple(names)
        state: tuple[object, ...] = (trusted, names)
        for index in INDEXES:
            if index in names:
                # `select` decides whether an index that cannot be read matters: beside a single file it does not.
                try:
                    state += (self._folders.stamp(reference, folder / index),)
                except ModelUnavailable:
                    state += (None,)
        with self._lock:
            entry = self._selected.get(folder)
        if entry is not None and entry[0] == state:
            return entry[1]
        selected = select(reference, names, partial(self._folders.read_start, reference, folder), trusted=trusted)
        with self._lock:
            self._selected[folder] = (state, selected)
        return selected

    def _read(self, reference: FileReference, listing: Listing) -> ResolvedModel:
        # Inspected before hashed: a model that cannot be used is refused before minutes of hashing.
        facts = self._inspector.read_model(
            reference,
            {name: stamp.size for name, stamp in listing.stamps},
            listing.names,
            partial(self._folders.read_start, reference, listing.folder),
            trusted=self._trust.allows(reference),
        )
        identity, files = self._folders.identify(reference, listing)
        model = ResolvedModel(reference=str(reference), identity=identity, files=files, facts=facts)
        with self._lock:
            self._resolved[listing.folder] = (listing, model)
        return model
