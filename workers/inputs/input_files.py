"""The files that a stage starts from, each with the place that it comes from and the one that it goes to."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex

from enginefarm.contract.digest import Watch
from enginefarm.contract.errors import IntegrityError, NotFound
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.model.resolved_files import ModelFile, ResolvedFiles
from enginefarm.contract.work import Work
from models.sources import Sources
from models.store import Store
from workers.reporting.failures import StartDamaged

# Copies files of a model or of an auxiliary input into a folder, verified as far as their source knows digests.
_FetchFiles = Callable[[tuple[ModelFile, ...], Path, Watch], None]


@dataclass(frozen=True)
class InputFile:
    """A file whose digest is known before it is fetched.

    `fetch` writes the verified file to `target`, which must not exist.
    """

    entry: FileEntry
    target: Path
    fetch: Callable[[Path, Watch], None]


@dataclass(frozen=True)
class OtherFiles:
    """Files of one source whose digests only the fetch will tell: they have no name in a cache."""

    size: int  # bytes
    fetch: Callable[[Watch], None]


@dataclass(frozen=True)
class Places:
    """The folders of an attempt: of its model or checkpoint, of its auxiliary inputs, and one to fetch into first."""

    source: Path
    inputs: Mapping[str, Path]
    staging: Path


@dataclass(frozen=True)
class InputFiles:
    """Lists the files of a stage's inputs."""

    store: Store
    sources: Sources

    def list(self, work: Work, checkpoint: Manifest | None, places: Places) -> Iterator[InputFile | OtherFiles]:
        """Yield the files of the auxiliary inputs, then those of the model or of the checkpoint.

        Args:
            checkpoint: of a build; None for a convert.
        """
        for name, files in work.inputs.items():
            fetch = partial(self._fetch_auxiliary, files)
            yield from _of_source(files, places.inputs[name], places.staging, fetch)
        if work.model is not None:
            fetch = partial(self._fetch_model, work)
            yield from _of_source(work.model, places.source, places.staging, fetch)
        if checkpoint is not None:
            for entry in checkpoint.files:
                yield InputFile(entry, places.source / entry.path, partial(self._fetch_blob, entry))

    def _fetch_auxiliary(
        self, files: ResolvedFiles, selected: tuple[ModelFile, ...], destination: Path, watch: Watch
    ) -> None:
        self.sources.auxiliary.fetch(files.model_copy(update={"files": selected}), destination, watch)

    def _fetch_model(self, work: Work, selected: tuple[ModelFile, ...], destination: Path, watch: Watch) -> None:
        assert work.model is not None, "only the files of a model are fetched like this"
        self.sources.fetch(work.model.model_copy(update={"files": selected}), destination, watch)

    def _fetch_blob(self, entry: FileEntry, target: Path, watch: Watch) -> None:
        try:
            self.store.fetch(entry.digest, entry.size, target, watch)
        except (NotFound, IntegrityError) as error:
            # Another try would fetch the same bytes: this failure withdraws the checkpoint instead.
            raise StartDamaged(entry.digest, error) from error


def _of_source(
    files: ResolvedFiles, destination: Path, staging: Path, fetch: _FetchFiles
) -> Iterator[InputFile | OtherFiles]:
    unnamed = []
    for file in files.files:
        if file.digest is None:
            unnamed.append(file)
            continue
        entry = FileEntry(path=file.path, digest=file.digest, size=file.size)
        yield InputFile(entry, destination / file.path, partial(_fetch_one, file, staging, fetch))
    if unnamed:
        size = sum(file.size for file in unnamed)
        yield OtherFiles(size, partial(fetch, tuple(unnamed), destination))


def _fetch_one(file: ModelFile, staging: Path, fetch: _FetchFiles, target: Path, watch: Watch) -> None:
    # In a folder of its own, because the hub's library leaves files of its own beside those that it fetches.
    folder = staging / token_hex(8)
    folder.mkdir(parents=True)
    try:
        fetch((file,), folder, watch)
        (folder / file.path).rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
