"""The last list of recalled engines of every farm that this node saw: one file each, next to the node's cache."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError

from enginefarm.contract.errors import IntegrityError
from enginefarm.transfer.atomic_file import write_atomically
from enginefarm.transfer.file_lock import locked
from enginefarm.wire.revocations import RevocationList


@dataclass(frozen=True)
class SeenRevocations:
    """Safe to share between processes, also between containers on one volume."""

    folder: Path

    def remember(self, revocations: RevocationList) -> None:
        """Keep this list as the last one of its farm.

        Raises:
            IntegrityError: a list with a higher sequence number was seen before, or the file of it is damaged.
            OSError: the folder cannot be written, or the file of the last list not read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{sha256(revocations.farm.encode()).hexdigest()[:32]}.json"
        with locked(path, on_wait=lambda: None):
            last = _read(path)
            if last is not None and revocations.sequence < last.sequence:
                raise IntegrityError(
                    f"the list of recalled engines of {revocations.farm[:100]} has the sequence number "
                    f"{revocations.sequence}, this node has seen {last.sequence}: somebody sends an old list; if the "
                    f"farm itself was restored from a backup, repeat its recalls and remove {path}"
                )
            # Of two lists with one number the later one stays, so that a recall that ended does not come back.
            if last is None or (revocations.sequence, revocations.issued_at) > (last.sequence, last.issued_at):
                write_atomically([revocations.payload()], path, staging=self.folder)

    def all(self) -> list[RevocationList]:
        """The last list of every farm.

        Raises:
            IntegrityError: a file is damaged.
            OSError: a file cannot be read.
        """
        lists = []
        for path in sorted(self.folder.glob("*.json")):
            revocations = _read(path)
            if revocations is not None:
                lists.append(revocations)
        return lists


def _read(path: Path) -> RevocationList | None:
    try:
        return RevocationList.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        # Not taken for "never seen": that would let an old list through.
        raise IntegrityError(f"{path} is not a list of recalled engines: remove it") from error
