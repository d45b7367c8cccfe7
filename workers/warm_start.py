"""A stage's warm file: fetched before the stage runs, uploaded after it. An error costs time, not the attempt."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginefarm.contract import digest, regular_files
from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.key import key_of
from enginefarm.contract.regular_files import MissingFile, RefusedFile
from models.catalogue.database import Database
from models.lifecycle.blobs import require_stored
from models.lifecycle.leases import Claim
from models.lifecycle.warm_files import StoredWarmFile, find_warm_file, record_warmth, save_warm_file
from models.store import Store
from toolchains.toolchain import WarmFile

log = logging.getLogger(__name__)

# In the key of a warm file: another number makes every stored file unfindable.
_DOCUMENT = "enginefarm.warm/1"
_LONGEST = 2 << 30  # bytes; a timing cache has some MiB, and every later stage fetches the file


@dataclass
class WarmStart:
    """The warm file of one stage, at `path`; `document` names what it is good for, and makes its key.

    `start` is the file that the stage started from, `uploaded` the new one that it wrote; None if there is none.
    """

    database: Database
    store: Store
    path: Path
    document: dict[str, Any]
    start: StoredWarmFile | None = None
    uploaded: StoredWarmFile | None = None

    @classmethod
    def of(cls, toolchain: str, warm: WarmFile, scratch: Path, *, database: Database, store: Store) -> WarmStart:
        """Returns the warm start of a stage of this toolchain, whose file lies in `scratch`."""
        document = {"document": _DOCUMENT, "toolchain": toolchain, "good_for": dict(warm.good_for)}
        return cls(database, store, scratch / warm.path, document)

    def fetch(self, watch: Watch = ignore_progress) -> None:
        """Fetch the last warm file with this key, if there is one."""
        try:
            with self.database.read() as session:
                stored = find_warm_file(session, key_of(self.document))
            if stored is not None:
                self.store.fetch(stored.digest, stored.size, self.path, watch)
                self.start = stored
        except (EnginefarmError, OSError) as error:
            # A toolchain might read half a file: without one it starts cold, which always works.
            self.path.unlink(missing_ok=True)
            log.warning("starting cold: %s", error)

    def upload(self, watch: Watch = ignore_progress) -> None:
        """Upload the file that the stage wrote, unless it is empty or the one that the stage started from.

        A program may have put anything in its place: only a regular file is read.
        """
        try:
            with regular_files.opened(self.path.parent, self.path.name) as stream:
                written = StoredWarmFile(*digest.of_stream(stream, watch, longest=_LONGEST))
            if written.size > 0 and written != self.start:
                self.store.put(self.path, written.digest, written.size, watch)
                self.uploaded = written
        except MissingFile:
            return
        except (EnginefarmError, OSError, RefusedFile) as error:
            log.warning("the warm file is not kept: %s", error)

    def record(self, claim: Claim, *, seconds: float) -> None:
        """Name the uploaded file in the catalogue, and record that this attempt started warm and took `seconds`.

        Call it only after the attempt was published: a failed stage may have written a bad file.
        """
        try:
            with self.database.write() as session:
                if self.uploaded is not None:
                    save_warm_file(session, key_of(self.document), self.document, self.uploaded)
                    # Garbage collection may have removed the blob since its upload: then the row must not be committed.
                    require_stored(self.store, {self.uploaded.digest: self.uploaded.size})
                if self.start is not None:
                    record_warmth(session, claim, self.start, seconds=seconds)
        except EnginefarmError as error:
            log.warning("the warm file is not kept: %s", error)
