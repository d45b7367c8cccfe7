"""Models in folders of the farm's own machines.

A folder is identified by what is in it, so two copies of a model in two places are one model. Hashing a
large model takes minutes, therefore digests are kept by path, size, mtime and inode; the worker hashes
again as it copies, and refuses what differs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from enginefarm.contract.manifest import Manifest
from enginefarm.contract.model_reference import FileReference, parse
from enginefarm.contract.resolved_files import ModelFile, ResolvedModel
from models.caching import SingleFlight
from models.sources.config_facts import MAX_CONFIG_BYTES, read_facts, too_large
from models.sources.confined_folders import Folders, Listing
from models.sources.digest_cache import DigestCache
from models.sources.model_files import CONFIG, is_weights, select
from models.sources.trust import NOBODY, Trust


class FileSource:
    """Resolves and fetches `file:` models below `roots`; `digests` knows what was hashed before."""

    def __init__(self, roots: Sequence[Path], digests: DigestCache, *, trust: Trust = NOBODY) -> None:
        self._folders = Folders(roots, digests, self._select)
        self._trust = trust
        self._reading: SingleFlight[Listing, ResolvedModel] = SingleFlight()
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[Listing, ResolvedModel]] = {}

    def resolve(self, reference: FileReference) -> ResolvedModel:
        """Of a folder that did not change since the last time, only directory entries are read.

        The first time, all the files that count are hashed: minutes for a large model.
        """
        listing = self._folders.look(reference)
        resolved = self._unchanged(listing) or self._reading.run(listing, lambda: self._read(reference, listing))
        return resolved.model_copy(update={"reference": str(reference)})

    def at_hand(self, reference: FileReference) -> ResolvedModel | None:
        resolved = self._unchanged(self._folders.look(reference))
        return resolved.model_copy(update={"reference": str(reference)}) if resolved else None

    def _unchanged(self, listing: Listing) -> ResolvedModel | None:
        with self._lock:
            known = self._known.get(listing.folder)
        return known[1] if known and known[0] == listing else None

    def fetch(self, model: ResolvedModel, destination: Path) -> None:
        reference = parse(model.reference)
        if not isinstance(reference, FileReference):
            raise TypeError(f"{reference} names no folder")
        folder = self._folders.folder(reference)
        for file in model.files:
            self._folders.copy(reference, folder, file, destination / file.path)

    def _select(self, reference: FileReference, names: Iterable[str]) -> tuple[str, ...]:
        return select(reference, names, trusted=self._trust.allows(reference))

    def _read(self, reference: FileReference, listing: Listing) -> ResolvedModel:
        config = self._config(reference, listing.folder)
        weights = [stamp.size for name, stamp in listing.stamps if is_weights(name)]
        facts = read_facts(reference, config, weights, listing.names, trusted=self._trust.allows(reference))
        entries = self._folders.entries(reference, listing)
        resolved = ResolvedModel(
            reference=str(reference),
            identity={"source": "files", "digest": Manifest.of(entries).digest},
            files=tuple(ModelFile(path=entry.path, size=entry.size, digest=entry.digest) for entry in entries),
            facts=facts,
        )
        with self._lock:
            self._known[listing.folder] = (listing, resolved)
        return resolved

    def _config(self, reference: FileReference, folder: Path) -> bytes:
        with self._folders.open(reference, folder / CONFIG) as stream:
            config = stream.read(MAX_CONFIG_BYTES + 1)
        if len(config) > MAX_CONFIG_BYTES:
            raise too_large(reference)
        return config
