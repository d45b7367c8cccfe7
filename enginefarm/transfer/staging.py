"""The directory in which an engine is put together before it gets its name."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from enginefarm.contract.errors import CallerError, Conflict
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.transfer.atomic_file import sync_directory
from enginefarm.transfer.new_files import own_directory

_BLOCK = 512  # bytes: the unit of st_blocks, whatever the file system's own block size is


class StagingDirectory:
    """`.<name>.partial-<start of the manifest's digest>` beside `destination`, so that a rename can publish it.

    The name is the same for every pull of this engine to this place: a pull goes on from what an interrupted one left.
    Not safe to share between processes: a caller holds the lock of `destination`.
    """

    def __init__(self, destination: Path, manifest: Manifest) -> None:
        short_digest = manifest.digest.removeprefix("sha256:")[:12]
        self.destination = destination
        self.path = destination.with_name(f".{destination.name}.partial-{short_digest}")
        self.journal = self.path.with_name(self.path.name + ".journal")
        self._files = manifest.files

    def prepare(self) -> None:
        """Make the directory and its folders, and remove what the manifest does not name.

        Raises:
            Conflict: something else has this name, or another user made it.
        """
        own_directory(self.path)
        _remove_strangers(self.path, {self.file(entry) for entry in self._files})
        for entry in self._files:
            self.file(entry).parent.mkdir(parents=True, exist_ok=True)

    def file(self, entry: FileEntry) -> Path:
        return self.path / entry.path

    def require_room(self, entries: Sequence[FileEntry]) -> None:
        """Raises CallerError if the disk has no room for what is missing of these files."""
        missing = 0
        for entry in entries:
            path = self.file(entry)
            # Blocks, not the length: a file that is fetched in parts has its full length and gaps.
            allocated = path.lstat().st_blocks * _BLOCK if path.exists() else 0
            missing += max(0, entry.size - allocated)
        free = shutil.disk_usage(self.path).free
        if missing > free:
            raise CallerError(
                f"{missing} bytes are still to be fetched and {free} are free in {self.path.parent}: "
                "make room, or name another place"
            )

    def make_writable(self, entry: FileEntry) -> None:
        """Prepare a file that an earlier pull left for new bytes, without changing bytes that others share.

        A file that came from the node's cache is read-only and hard-linked into other engines.
        """
        path = self.file(entry)
        if not path.exists():
            return
        if path.stat().st_nlink > 1:
            path.unlink()
        else:
            path.chmod(0o644)  # the cache has removed its link since

    def publish(self) -> None:
        """Give the directory its name. Afterwards bytes and names survive a power cut.

        Raises:
            Conflict: the destination appeared meanwhile.
        """
        # Everything below it is durable before the name exists, and the name itself after that.
        for path in self.path.rglob("*"):
            if path.is_dir():
                sync_directory(path)
        sync_directory(self.path)
        try:
            self.path.rename(self.destination)
        except OSError as error:
            raise Conflict(f"{self.destination} appeared while the engine was fetched: {error.strerror}") from error
        self.journal.unlink(missing_ok=True)
        sync_directory(self.destination.parent)


def _remove_strangers(folder: Path, files: set[Path]) -> None:
    """Remove all below `folder` except `files` and the folders that lead to them. Links are not followed."""
    folders = {parent for path in files for parent in path.parents}
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and path in folders:
            _remove_strangers(path, files)
        elif stat.S_ISDIR(mode):
            shutil.rmtree(path)
        elif not (stat.S_ISREG(mode) and path in files):
            path.unlink()
