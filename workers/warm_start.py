"""A stage's warm file: brought before it runs, taken out after. What goes wrong here costs time, never the attempt."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginefarm.contract import digest
from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.key import key_of
from models.catalogue.database import Database
from models.lifecycle.blobs import require_stored
from models.lifecycle.leases import Claim
from models.lifecycle.warm_files import StoredWarmFile, find_warm_file, record_warmth, save_warm_file
from models.store import Store
from toolchains.toolchain import WarmFile

log = logging.getLogger(__name__)

_DOCUMENT = "enginefarm.warm/1"


@dataclass
class WarmStart:
    """`start` is what the stage started from, `made` what it left, uploaded; None if there was nothing."""

    database: Database
    store: Store
    path: Path
    document: dict[str, Any]
    start: StoredWarmFile | None = None
    made: StoredWarmFile | None = None

    @classmethod
    def of(cls, toolchain: str, warm: WarmFile, scratch: Path, *, database: Database, store: Store) -> WarmStart:
        document = {"document": _DOCUMENT, "toolchain": toolchain, "good_for": dict(warm.good_for)}
        return cls(database, store, scratch / warm.path, document)

    def bring(self) -> None:
        try:
            with self.database.read() as session:
                found = find_warm_file(session, key_of(self.document))
            if found is not None:
                self.store.fetch(found.digest, found.size, self.path)
                self.start = found
        except (EnginefarmError, OSError) as error:
            self.path.unlink(missing_ok=True)
            log.warning("starting cold: %s", error)

    def take_out(self) -> None:
        """Upload what the stage left, if it is something new."""
        try:
            if not self.path.is_file() or self.path.stat().st_size == 0:
                return
            found = StoredWarmFile(digest.of_file(self.path), self.path.stat().st_size)
            if found != self.start:
                self.store.put(self.path, found.digest, found.size)
                self.made = found
        except (EnginefarmError, OSError) as error:
            log.warning("the warm file is not kept: %s", error)

    def record(self, held: Claim, *, seconds: float) -> None:
        """After the attempt was published: what it left is good."""
        try:
            with self.database.write() as session:
                if self.made is not None:
                    save_warm_file(session, key_of(self.document), self.document, self.made)
                    require_stored(self.store, {self.made.digest: self.made.size})
                if self.start is not None:
                    record_warmth(session, held, self.start, seconds=seconds)
        except EnginefarmError as error:
            log.warning("the warm file is not kept: %s", error)
