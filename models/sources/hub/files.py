"""List and fetch the files of a hub repository at one commit."""

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

# Otherwise the first request of a process also asks the public hub what to call its user agent, which takes seconds
# where a firewall drops it.
constants.HF_HUB_DISABLE_TELEMETRY = True

PARALLEL_FILES = 4


class HubFiles:
    """Fetches files of repositories of one kind.

    Args:
        api: has the endpoint and the token.
    """

    def __init__(self, api: HfApi, errors: HubErrors, kind: Literal["model", "dataset"]) -> None:
        self._api = api
        self._errors = errors
        self._kind = kind

    def fetch(self, reference: object, resolved: ResolvedFiles, destination: Path) -> None:
        """Fetch the files into `destination` and compare them with the hub's listing.

        Raises:
            ModelUnavailable: the hub no longer lets the farm read them.
            SourceUnavailable: the hub does not answer.
            IntegrityError: a file differs from the listing.
        """
        if not isinstance(reference, HubReference) or reference.commit is None:
            raise TypeError(f"{reference} names no commit of a hub")
        destination.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            list(pool.map(partial(self._fetch_file, reference, destination), resolved.files))
        shutil.rmtree(destination / ".cache", ignore_errors=True)  # the download library's own bookkeeping

    def _fetch_file(self, reference: HubReference, destination: Path, file: ModelFile) -> None:
        with self._errors.translated(reference):
            self._api.hf_hub_download(
                reference.repo, file.path, repo_type=self._kind, revision=reference.revision, local_dir=destination
            )
        # A commit cannot change, so a difference is damage on the way, or a hub that must not be trusted.
        path = destination / file.path
        size = path.stat().st_size
        if size != file.size:
            raise IntegrityError(f"{reference}: {file.path} has {size} bytes, the hub's listing says {file.size}")
        if file.digest is not None:  # the hub names the SHA-256 of large files only
            actual = digest.of_file(path)
            if actual != file.digest:
                raise IntegrityError(f"{reference}: {file.path} is {actual}, the hub's listing says {file.digest}")


def model_files(siblings: Iterable[RepoSibling]) -> tuple[ModelFile, ...]:
    """Return the files of a hub's listing.

    Raises:
        ValidationError: the hub names no size or digest of the proper form.
    """
    files = []
    for sibling in siblings:
        fields = {"path": sibling.rfilename, "size": sibling.size, "digest": None}
        if sibling.lfs:
            fields |= {"size": sibling.lfs.size, "digest": f"sha256:{sibling.lfs.sha256}"}
        files.append(ModelFile.model_validate(fields))
    return tuple(files)
