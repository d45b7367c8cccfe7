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
from enginefarm.contract.model_reference import FileReference, parse
from enginefarm.contract.resolved_files import ResolvedModel
from models.caching import SingleFlight
from models.sources.config_facts import MAX_CONFIG_BYTES, config_too_large, read_facts
from models.sources.confined_folders import ConfinedFolders, Listing
from models.sources.digest_cache import DigestCache
from models.sources.file_names import CONFIG, is_weights
from models.sources.model_files import select
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
        self._reading: SingleFlight[Listing, ResolvedModel] = SingleFlight()
        self._lock = threading.Lock()
        # One entry a folder, replaced by a newer listing. Unlike a hub's answer it needs no age: the listing tells.
        self._resolved: dict[Path, tuple[Listing, ResolvedModel]] = {}

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
        return select(reference, names, trusted=self._trust.allows(reference))

    def _read(self, reference: FileReference, listing: Listing) -> ResolvedModel:
        with self._folders.open(reference, listing.folder / CONFIG) as stream:
            # One byte more tells a file of the largest size from a larger one.
            config = stream.read(MAX_CONFIG_BYTES + 1)
        if len(config) > MAX_CONFIG_BYTES:
            raise config_too_large(reference)
        weight_sizes = [stamp.size for name, stamp in listing.stamps if is_weights(name)]
        # Facts before digests: a config that cannot be used is refused before minutes of hashing.
        facts = read_facts(reference, config, weight_sizes, listing.names, trusted=self._trust.allows(reference))
        identity, files = self._folders.identify(reference, listing)
        model = ResolvedModel(reference=str(reference), identity=identity, files=files, facts=facts)
        with self._lock:
            self._resolved[listing.folder] = (listing, model)
        return model
