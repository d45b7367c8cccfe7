"""The files of a hub's repository at one commit: as they are listed, and fetched whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.hf_api import RepoSibling

from enginefarm.contract import digest
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.model_reference import HubReference
from enginefarm.contract.resolved_files import ModelFile, ResolvedFiles
from models.sources.hub.errors import HubErrors

# Otherwise the first request of a process also asks the public hub what to call its user agent, which
# takes seconds where a firewall drops it.
constants.HF_HUB_DISABLE_TELEMETRY = True

PARALLEL_FILES = 4


class HubFiles:
    """Fetches from repositories of one kind, with the token that `api` was given."""

    def __init__(self, api: HfApi, errors: HubErrors, kind: Literal["model", "dataset"]) -> None:
        self._api = api
        self._errors = errors
        self._kind = kind

    def fetch(self, reference: object, resolved: ResolvedFiles, destination: Path) -> None:
        if not isinstance(reference, HubReference) or reference.commit is None:
            raise TypeError(f"{reference} names no commit of a hub")
        destination.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            list(pool.map(partial(self._download, reference, destination), resolved.files))
        shutil.rmtree(destination / ".cache", ignore_errors=True)  # the download library's own bookkeeping

    def _download(self, reference: HubReference, destination: Path, file: ModelFile) -> None:
        with self._errors.explained(reference):
            self._api.hf_hub_download(
                reference.repo, file.path, repo_type=self._kind, revision=reference.revision, local_dir=destination
            )
        _verify(reference, destination / file.path, file)


def listed(siblings: Iterable[RepoSibling]) -> tuple[ModelFile, ...]:
    """
    Raises:
        ValidationError: the hub names no proper size or digest.
    """
    return tuple(_file(sibling) for sibling in siblings)


def _file(sibling: RepoSibling) -> ModelFile:
    return ModelFile.model_validate(
        {
            "path": sibling.rfilename,
            "size": sibling.lfs.size if sibling.lfs else sibling.size,
            "digest": f"sha256:{sibling.lfs.sha256}" if sibling.lfs else None,
        }
    )


def _verify(reference: HubReference, path: Path, file: ModelFile) -> None:
    """A commit cannot change, so what differs was damaged on the way, or the hub is not to be trusted."""
    size = path.stat().st_size
    if size != file.size:
        raise IntegrityError(f"{reference}: {file.path} has {size} bytes, the hub's listing says {file.size}")
    if file.digest and (actual := digest.of_file(path)) != file.digest:
        raise IntegrityError(f"{reference}: {file.path} is {actual}, the hub's listing says {file.digest}")
