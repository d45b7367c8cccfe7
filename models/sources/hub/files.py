"""List and fetch the files of a hub repository at one commit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Literal

from huggingface_hub import DatasetInfo, HfApi, ModelInfo, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils.tqdm import tqdm
from pydantic import ValidationError

from enginefarm.contract import digest
from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.model.reference import HubReference
from enginefarm.contract.model.resolved_files import ModelFile, ResolvedFiles
from models.sources.hub.errors import HubErrors
from models.sources.hub.http_client import AnswerTooLong, HubEndpoint

ANSWER_SECONDS = 10.0  # between two bytes of an answer; a submit waits for it, so a slow hub must fail soon
TOTAL_SECONDS = 30.0  # for an answer from its first to its last byte
PARALLEL_FILES = 4
# A listing has about 250 bytes for a file, and the largest repositories some ten thousand files.
_MAX_LISTING_BYTES = 16 << 20
MAX_LISTED_FILES = 50_000
# A file may take longer the larger it is: a link below 256 KiB/s would need days for a model.
_FILE_SECONDS = 120.0
_FILE_BYTES_PER_SECOND = 256 << 10


class HubFiles:
    """Repositories of one kind.

    Args:
        hub: sets the limits of every answer.
        api: has the endpoint and the token.
    """

    def __init__(self, hub: HubEndpoint, api: HfApi, errors: HubErrors, kind: Literal["model", "dataset"]) -> None:
        self._hub = hub
        self._api = api
        self._errors = errors
        self._kind = kind

    def pin(self, reference: HubReference) -> tuple[HubReference, dict[str, RepoSibling]]:
        """Return (the reference at the commit that its revision names now, what the hub lists there, by path).

        Raises:
            ModelUnavailable: no such repository or revision, or the farm may not read it.
            SourceUnavailable: the hub does not answer, names no commit, or lists more files than the farm reads.
        """
        limits = self._hub.answers(max_bytes=_MAX_LISTING_BYTES, seconds=TOTAL_SECONDS)
        with self._errors.translated(reference), limits:
            repository = self._api.repo_info(
                reference.repo,
                repo_type=self._kind,
                revision=reference.revision,
                files_metadata=True,
                timeout=ANSWER_SECONDS,
            )
        pinned = HubReference(reference.repo, repository.sha)
        if pinned.commit is None or not isinstance(repository, DatasetInfo | ModelInfo):
            raise self._errors.unavailable(reference, "did not name the commit")
        if len(repository.siblings or ()) > MAX_LISTED_FILES:
            raise self._errors.unavailable(reference, f"lists more than {MAX_LISTED_FILES} files")
        return pinned, {sibling.rfilename: sibling for sibling in repository.siblings or ()}

    def describe(self, reference: HubReference, siblings: Iterable[RepoSibling]) -> tuple[ModelFile, ...]:
        """Return size and digest of listed files.

        Raises:
            SourceUnavailable: the hub names no size or digest of the proper form.
        """
        files = []
        for sibling in siblings:
            fields = {"path": sibling.rfilename, "size": sibling.size, "digest": None}
            if sibling.lfs:
                # Of a large file, git holds a pointer of some bytes; the facts of the file itself are here.
                fields |= {"size": sibling.lfs.size, "digest": f"sha256:{sibling.lfs.sha256}"}
            try:
                files.append(ModelFile.model_validate(fields))
            except ValidationError as error:
                raise self._errors.unavailable(reference, "lists a file without a proper size or digest") from error
        return tuple(files)

    def read_start(self, reference: HubReference, pinned: HubReference, path: str, length: int) -> bytes:
        """Return the first `length` bytes of a file, or all of a shorter one; `reference` is for error texts.

        Raises:
            ModelUnavailable: the farm may not read the file.
            SourceUnavailable: the hub does not answer.
        """
        url = hf_hub_url(pinned.repo, path, repo_type=self._kind, revision=pinned.revision, endpoint=self._api.endpoint)
        headers = {"Range": f"bytes=0-{length - 1}"}
        if self._api.token:
            headers["Authorization"] = f"Bearer {self._api.token}"
        start = bytearray()
        # Not by the library's download functions: they keep every answer in a cache on this disk. A hub without ranges
        # answers with the whole file, of which no more than `length` is read.
        limits = self._hub.answers(max_bytes=sys.maxsize, seconds=TOTAL_SECONDS)
        answer = get_session().stream("GET", url, headers=headers, timeout=ANSWER_SECONDS)
        with self._errors.translated(reference), limits, answer as response:
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            for chunk in response.iter_raw():
                start += chunk
                if len(start) >= length:
                    break
        return bytes(start[:length])

    def fetch(
        self, reference: object, resolved: ResolvedFiles, destination: Path, watch: Watch = ignore_progress
    ) -> None:
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
            # Each with a copy of this thread's context, which has the limit of the work.
            fetches = [
                pool.submit(copy_context().run, self._fetch_file, reference, destination, watch, file)
                for file in resolved.files
            ]
            for fetch in fetches:
                fetch.result()
        shutil.rmtree(destination / ".cache", ignore_errors=True)  # the download library's own bookkeeping

    def _fetch_file(self, reference: HubReference, destination: Path, watch: Watch, file: ModelFile) -> None:
        limits = self._hub.answers(max_bytes=file.size, seconds=_FILE_SECONDS + file.size / _FILE_BYTES_PER_SECOND)
        with self._errors.translated(reference), limits:
            try:
                self._api.hf_hub_download(
                    reference.repo,
                    file.path,
                    repo_type=self._kind,
                    revision=reference.revision,
                    local_dir=destination,
                    cache_dir=destination / ".cache",  # not the one of whoever runs this process, who may have no home
                    tqdm_class=watching_bar(watch),
                )
            except AnswerTooLong as error:
                raise IntegrityError(
                    f"{reference}: {file.path} has more than the {file.size} bytes of the hub's listing"
                ) from error
        # A commit cannot change, so a difference is damage on the way, or a hub that must not be trusted.
        path = destination / file.path
        size = path.stat().st_size
        if size != file.size:
            raise IntegrityError(f"{reference}: {file.path} has {size} bytes, the hub's listing says {file.size}")
        if file.digest is not None:  # the hub names the SHA-256 of large files only
            actual = digest.of_file(path, watch)
            if actual != file.digest:
                raise IntegrityError(f"{reference}: {file.path} is {actual}, the hub's listing says {file.digest}")


def watching_bar(watch: Watch) -> type[tqdm]:
    """A class of progress bars for the hub's library: they print nothing and tell `watch` of the bytes that came."""

    class WatchingBar(tqdm):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            watch(int(n or 0))

    return WatchingBar
