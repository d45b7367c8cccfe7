"""Data sets that a quantisation is calibrated on: folders of the farm's own machines with files of plain data.

They are read by libraries that run a Python file that they find there, so only data are ever copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from enginefarm.manifest import Manifest
from enginefarm.model import FileReference, ModelReference, parse
from models.sources.digests import DigestCache
from models.sources.folders import Folders
from models.sources.refusal import refusal
from models.sources.resolved import ModelFile, ResolvedFiles

_DATA = re.compile(r"[\w.+=@,-]+\.(?:parquet|jsonl|json|csv|txt|arrow)", re.ASCII)
_EXPECTED = "a folder with .parquet, .jsonl, .json, .csv, .txt or .arrow files at its top, as in file:/data/news"


class DataSource:
    """Resolves and fetches `file:` data sets below `roots`; `digests` knows what was hashed before."""

    def __init__(self, roots: Sequence[Path], digests: DigestCache) -> None:
        self._folders = Folders(roots, digests, _select)

    def resolve(self, reference: ModelReference) -> ResolvedFiles:
        """
        Raises:
            ModelUnavailable: missing, outside the roots, or without data.
        """
        folder = _as_folder(reference)
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
        reference = _as_folder(parse(data.reference))
        folder = self._folders.folder(reference)
        for file in data.files:
            self._folders.copy(reference, folder, file, destination / file.path)


def _as_folder(reference: ModelReference) -> FileReference:
    if isinstance(reference, FileReference):
        return reference
    raise refusal(
        reference,
        "data_source_unknown",
        "calibration data are read from folders of the farm's machines only",
        expected=_EXPECTED,
        remedy="put a copy of the data set below one of the farm's model roots",
    )


def _select(reference: FileReference, names: Iterable[str]) -> tuple[str, ...]:
    if found := tuple(sorted(name for name in names if _DATA.fullmatch(name))):
        return found
    raise refusal(reference, "data_missing", "there are no data at its top", expected=_EXPECTED)
