"""What is read beside a model, of a Hugging Face hub: pinned to the commit like its models, and only what counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from huggingface_hub import DatasetInfo, HfApi, ModelInfo, hf_hub_url
from pydantic import ValidationError

from enginefarm.contract.model_reference import HubReference, parse
from enginefarm.contract.resolved_files import ModelFile, ResolvedFiles
from models.caching import SingleFlight, TimedCache
from models.sources.auxiliary_selection import PLAIN_DATA, Repository, Selection
from models.sources.hub.errors import HubErrors
from models.sources.hub.files import HubFiles, listed
from models.sources.hub.model_source import ANSWER_SECONDS, BRANCH_SECONDS, COMMIT_SECONDS
from models.sources.rejection import refusal

MOST_BYTES = 16 << 30  # a calibration reads some hundred texts, draft heads are small, and a worker has a disk
_IDENTITY: dict[Repository, str] = {"dataset": "hf_dataset", "model": "hf"}

_Asked = tuple[HubReference, Selection]


class HubDataSource:
    """Resolves and fetches `hf:` data sets, and named files of models. The arguments are those of `HubSource`."""

    def __init__(self, endpoint: str, token: str | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = HfApi(endpoint=endpoint.rstrip("/"), token=token or False)
        self._errors: dict[Repository, HubErrors] = {
            "dataset": HubErrors(endpoint, has_token=bool(token), what="data set"),
            "model": HubErrors(endpoint, has_token=bool(token)),
        }
        self._asking: SingleFlight[_Asked, ResolvedFiles] = SingleFlight()
        self._answers: TimedCache[_Asked, ResolvedFiles] = TimedCache(clock=clock)

    def resolve(self, reference: HubReference, selection: Selection = PLAIN_DATA) -> ResolvedFiles:
        asked = (reference, selection)
        return self._answers.get(asked) or self._asking.run(asked, partial(self._ask, reference, selection))

    def fetch(self, resolved: ResolvedFiles, destination: Path) -> None:
        kind = next(kind for kind, source in _IDENTITY.items() if source == resolved.identity["source"])
        HubFiles(self._api, self._errors[kind], kind).fetch(parse(resolved.reference), resolved, destination)

    def _ask(self, reference: HubReference, selection: Selection) -> ResolvedFiles:
        errors = self._errors[selection.repository]
        with errors.explained(reference):
            info = self._api.repo_info(
                reference.repo,
                repo_type=selection.repository,
                revision=reference.revision,
                files_metadata=True,
                timeout=ANSWER_SECONDS,
            )
        pinned = HubReference(reference.repo, info.sha)
        if pinned.commit is None or not isinstance(info, DatasetInfo | ModelInfo):
            raise errors.unavailable(reference, "did not name the commit")
        resolved = self._answers.get((pinned, selection)) or self._describe(reference, pinned, info, selection)
        self._answers.put((pinned, selection), resolved, COMMIT_SECONDS)
        if reference != pinned:
            self._answers.put((reference, selection), resolved, BRANCH_SECONDS)
        return resolved

    def _describe(
        self, reference: HubReference, pinned: HubReference, info: DatasetInfo | ModelInfo, selection: Selection
    ) -> ResolvedFiles:
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        try:
            files = listed(siblings[name] for name in selection.of_hub(reference, siblings))
        except ValidationError as error:
            errors = self._errors[selection.repository]
            raise errors.unavailable(reference, "lists a file without a proper size or digest") from error
        _check_size(reference, files)
        self._check_access(reference, pinned, files[0], selection.repository)
        return ResolvedFiles(
            reference=str(pinned),
            identity={
                "source": _IDENTITY[selection.repository],
                "repo": pinned.repo,
                "commit": pinned.revision or "",
            },
            files=files,
        )

    def _check_access(self, reference: HubReference, pinned: HubReference, file: ModelFile, kind: Repository) -> None:
        """What a gated repository has is listed for everybody, and fetched by those who may."""
        url = hf_hub_url(pinned.repo, file.path, repo_type=kind, revision=pinned.revision, endpoint=self._api.endpoint)
        with self._errors[kind].explained(reference):
            self._api.get_hf_file_metadata(url=url, timeout=ANSWER_SECONDS)


def _check_size(reference: HubReference, files: tuple[ModelFile, ...]) -> None:
    if (size := sum(file.size for file in files)) > MOST_BYTES:
        raise refusal(
            reference,
            "data_too_large",
            f"it has {size / (1 << 30):.0f} GiB of files that count, and all of them would be fetched",
            expected=f"at most {MOST_BYTES >> 30} GiB",
            remedy="put a part of it below one of the farm's model roots, and give that folder",
        )
