"""Resolve and fetch auxiliary inputs in a Hugging Face hub, pinned to a commit as models are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_url

from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.model.reference import HubReference, parse
from enginefarm.contract.model.resolved_files import ResolvedFiles
from models.caching import SingleFlight, TimedCache
from models.outbound import time_limit
from models.sources.hub.errors import HubErrors
from models.sources.hub.files import ANSWER_SECONDS, TOTAL_SECONDS, HubFiles
from models.sources.hub.http_client import HubEndpoint, Network
from models.sources.hub.model_source import BRANCH_SECONDS, COMMIT_SECONDS, RESOLVE_SECONDS
from models.sources.inspection.inspector import Inspector
from models.sources.inspection.selection import PLAIN_DATA, Repository, Selection
from models.sources.rejection import refusal

# A calibration reads some hundred texts and draft heads are small, while a worker's disk has to hold all of it.
MAX_BYTES = 16 << 30
# The hub has data sets and models of the same name, so the identity tells the kinds apart.
_IDENTITY_SOURCE: dict[Repository, str] = {"dataset": "hf_dataset", "model": "hf"}

# Another selection of the same repository is another input.
_CacheKey = tuple[HubReference, Selection]


class HubAuxiliarySource:
    """`hf:` data sets, and named files of `hf:` models. The arguments are those of `HubSource`."""

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        *,
        redirect_networks: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = HubEndpoint(endpoint, redirect_networks)
        # False, not None: with None the library would send a token of the machine.
        self._api = HfApi(endpoint=self._hub.url, token=token or False)
        self._errors: dict[Repository, HubErrors] = {
            "dataset": HubErrors(endpoint, has_token=bool(token), kind="data set"),
            "model": HubErrors(endpoint, has_token=bool(token)),
        }
        self._repositories: dict[Repository, HubFiles] = {
            "dataset": HubFiles(self._hub, self._api, self._errors["dataset"], "dataset"),
            "model": HubFiles(self._hub, self._api, self._errors["model"], "model"),
        }
        self._inspector = Inspector()
        self._asking: SingleFlight[_CacheKey, ResolvedFiles] = SingleFlight()
        self._resolved: TimedCache[_CacheKey, ResolvedFiles] = TimedCache(clock=clock)

    def resolve_files(self, reference: HubReference, selection: Selection = PLAIN_DATA) -> ResolvedFiles:
        """Pin the reference to a commit and list the selected files.

        Raises:
            ModelUnavailable: missing, not readable for the farm, too large, or without the selected files.
            SourceUnavailable: the hub does not answer.
        """
        cache_key = (reference, selection)
        with time_limit.within(RESOLVE_SECONDS):
            return self._resolved.get(cache_key) or self._asking.run(cache_key, partial(self._ask_hub, *cache_key))

    def fetch(self, resolved: ResolvedFiles, destination: Path, watch: Watch = ignore_progress) -> None:
        """See `HubFiles.fetch`."""
        kind: Repository = "model"
        if resolved.identity["source"] == _IDENTITY_SOURCE["dataset"]:
            kind = "dataset"
        self._repositories[kind].fetch(parse(resolved.reference), resolved, destination, watch)

    def _ask_hub(self, reference: HubReference, selection: Selection) -> ResolvedFiles:
        kind = selection.repository
        repositories = self._repositories[kind]
        pinned, siblings = repositories.pin(reference)
        resolved = self._resolved.get((pinned, selection))
        if resolved is None:
            selected = selection.of_hub(reference, siblings)
            files = repositories.describe(reference, (siblings[name] for name in selected))
            size = sum(file.size for file in files)
            # Before it is fetched, and at submit: somebody is there to choose another one.
            if size > MAX_BYTES:
                raise refusal(
                    reference,
                    "data_too_large",
                    f"it has {size / (1 << 30):.0f} GiB of files that count, and all of them would be fetched",
                    expected=f"at most {MAX_BYTES >> 30} GiB",
                    remedy="put a part of it below one of the farm's model roots, and give that folder",
                )
            sizes = {file.path: file.size for file in files}
            read = partial(repositories.read_start, reference, pinned)
            self._inspector.read_auxiliary(reference, sizes, read, kind)
            # A hub lists a gated repository for everybody. Ask for one file, so that a submit learns whether the farm
            # may read it.
            url = hf_hub_url(
                pinned.repo, files[0].path, repo_type=kind, revision=pinned.revision, endpoint=self._api.endpoint
            )
            limits = self._hub.answers(max_bytes=0, seconds=TOTAL_SECONDS)  # the answer to HEAD has no body
            with self._errors[kind].translated(reference), limits:
                self._api.get_hf_file_metadata(url=url, timeout=ANSWER_SECONDS)
            resolved = ResolvedFiles(
                reference=str(pinned),
                identity={"source": _IDENTITY_SOURCE[kind], "repo": pinned.repo, "commit": pinned.revision or ""},
                files=files,
            )
        self._resolved.put((pinned, selection), resolved, COMMIT_SECONDS)
        if reference != pinned:
            self._resolved.put((reference, selection), resolved, BRANCH_SECONDS)
        return resolved
